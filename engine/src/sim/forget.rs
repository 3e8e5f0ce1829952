//! A checkpoint that forgets, and batches that do: ways to show that the simulator would notice.
//!
//! Must never: change anything that a checksum covers in a way that the checksum shows. The log must look whole.

use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use crate::format::batch::{
    BATCH_FLAG_FRAME_KEY, BATCH_FLAG_IDEMPOTENT, BATCH_HEADER_CRC_FROM, BatchHeader, BatchView,
};
use crate::format::block::{BlockHeader, BlockKind};
use crate::format::checkpoint::{CHECKPOINT_ENTRY_BYTES, CheckpointEntry};
use crate::io::DiskOp;

/// Takes the counters out of a checkpoint on its way to the disk, under the same checksums.
pub(super) fn forget_counters(op: &mut DiskOp) {
    let DiskOp::Write { buffer, .. } = op else { return };
    let Ok((header, rest)) = BlockHeader::mut_from_prefix(buffer) else { return };
    let body_bytes = header.body_bytes.get() as usize;
    if header.kind != BlockKind::Checkpoint as u8 || body_bytes == 0 {
        return;
    }
    let body = &mut rest[..body_bytes];
    for bytes in body.chunks_exact_mut(CHECKPOINT_ENTRY_BYTES) {
        let entry = CheckpointEntry::mut_from_bytes(bytes).expect("chunks of an entry");
        entry.month_events = U64::new(0);
        entry.month_bytes = U64::new(0);
        entry.stored_bytes = U64::new(0);
    }
    // The last bytes of the body are reserved: nobody looks at them but the checksum.
    let free_from = body_bytes - 4;
    set_crc(body, free_from, header.body_crc.get());
}

/// Takes the idempotency keys out of the batches of a block on its way to the disk, under the same checksums: a head that keeps
/// its own keeps the block's, too.
pub(super) fn forget_keys(op: &mut DiskOp) {
    const FREE_FROM: usize = std::mem::offset_of!(BatchHeader, reserved) - BATCH_HEADER_CRC_FROM;
    let DiskOp::Write { buffer, .. } = op else { return };
    let Ok((header, rest)) = BlockHeader::mut_from_prefix(buffer) else { return };
    if header.kind != BlockKind::Data as u8 {
        return;
    }
    let mut body = &mut rest[..header.body_bytes.get() as usize];
    while !body.is_empty() {
        let view = BatchView::parse(body).expect("the shard writes whole batches");
        let (head_bytes, batch_bytes) = (view.head_bytes(), view.batch_bytes());
        let is_keyed = view.idempotency().is_some();
        let (batch, others) = body.split_at_mut(batch_bytes);
        body = others;
        if is_keyed {
            let (header, _) = BatchHeader::mut_from_prefix(batch).expect("checked above");
            header.flags &= !(BATCH_FLAG_IDEMPOTENT | BATCH_FLAG_FRAME_KEY);
            header.idempotency_hash = [0; 16];
            header.body_hash = [0; 16];
            let crc = header.header_crc.get();
            set_crc(&mut batch[BATCH_HEADER_CRC_FROM..head_bytes], FREE_FROM, crc);
        }
    }
}

/// Gives bytes the wanted CRC-32 by choosing four of them. A checksum of this kind is linear in the bits: each bit of the
/// four adds a word of its own to it, and the words span all there are.
fn set_crc(bytes: &mut [u8], free_from: usize, wanted: u32) {
    let mut crc_with = |free: u32| {
        bytes[free_from..free_from + 4].copy_from_slice(&free.to_le_bytes());
        crc32fast::hash(bytes)
    };
    let without = crc_with(0);
    // What each bit adds, brought into steps: the word for a leading bit, and the bits that make it.
    let mut steps: [Option<(u32, u32)>; 32] = [None; 32];
    let reduce = |steps: &[Option<(u32, u32)>; 32], mut word: u32, mut bits: u32| {
        for (leading, step) in steps.iter().enumerate().rev() {
            if let (1, Some((step_word, step_bits))) = (word >> leading & 1, step) {
                word ^= step_word;
                bits ^= step_bits;
            }
        }
        (word, bits)
    };
    for bit in 0..32 {
        let (word, bits) = reduce(&steps, crc_with(1 << bit) ^ without, 1 << bit);
        let leading = word.checked_ilog2().expect("no bit adds what others add");
        steps[leading as usize] = Some((word, bits));
    }
    let (rest, bits) = reduce(&steps, wanted ^ without, 0);
    assert!(rest == 0);
    assert!(crc_with(bits) == wanted);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bytes_anywhere_can_give_any_checksum() {
        let mut bytes: Vec<u8> = (0..200).collect();
        for (free_from, wanted) in [(0, 0), (77, 0xDEAD_BEEF), (196, u32::MAX)] {
            let before = bytes.clone();
            set_crc(&mut bytes, free_from, wanted);
            assert_eq!(crc32fast::hash(&bytes), wanted);
            assert_eq!(
                (&bytes[..free_from], &bytes[free_from + 4..]),
                (&before[..free_from], &before[free_from + 4..])
            );
        }
    }
}
