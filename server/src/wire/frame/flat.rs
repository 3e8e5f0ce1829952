//! FlatBuffers, read in place: places in a buffer that nobody has checked.
//!
//! Owns every step along an offset. Must never: panic, allocate, follow an offset that ends outside, or believe a count
//! before its elements are seen to be there. Whether two places overlap is not looked at; who reads bounds what comes of it.
//!
//! ```text
//! root u32 ─► table: back i32 ─► vtable: size u16, table size u16, slot u16 ...     a slot is a place in the table, 0: absent
//!                    field ...   u32 ─► vector: count u32, elements                 offsets count from where they stand
//! ```

/// An offset, a length or a count leads outside of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds;

/// Sizes of a vtable itself: its own, and the table's, which nobody here needs.
const VTABLE_HEADER_BYTES: usize = 4;
const OFFSET_BYTES: usize = 4;

/// A whole FlatBuffer, or one nested in another.
#[derive(Debug, Clone, Copy)]
pub struct Buffer<'a>(pub &'a [u8]);

/// Where a table's fields stand. 0 is none: a field lies at least one byte behind its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields<const N: usize> {
    pub places: [usize; N],
    pub vtable_bytes: usize,
}

/// The vtable that an encoder writes right before every table, its padding, and the table's offset back to it: whoever finds
/// these bytes there knows the fields without a walk.
#[derive(Debug)]
pub struct Template<const N: usize> {
    vtable_bytes: usize,
    words: [u64; 3],
    /// Slots that are 0 where a field is absent.
    optional: [u64; 3],
    /// The lower of the two bits of each optional slot that has two, so that half a slot is not taken for one.
    pairs: [u64; 3],
}

/// Bytes of a template before its table.
const TEMPLATE_BACK: usize = 20;
const TEMPLATE_BYTES: usize = 24;

impl<const N: usize> Template<N> {
    /// `optional` has one bit for each slot, the lowest for the first.
    pub const fn new(bytes: [u8; TEMPLATE_BYTES], optional: u32) -> Template<N> {
        let words = words(&bytes);
        let mut template = Template { vtable_bytes: bytes[0] as usize, words, optional: [0; 3], pairs: [0; 3] };
        assert!(template.vtable_bytes == VTABLE_HEADER_BYTES + 2 * N);
        let mut slot = 0;
        while slot < N {
            let lane = slot + 2;
            let shift = 16 * (lane % 4);
            let value = (words[lane / 4] >> shift) & 0xffff;
            if optional >> slot & 1 == 1 {
                template.optional[lane / 4] |= value << shift;
                let low = value & (value >> 1);
                template.pairs[lane / 4] |= low << shift;
                assert!(value.count_ones() == 1 + low.count_ones());
            }
            slot += 1;
        }
        template
    }

    /// The fields of the table at `at`, if its vtable is this one.
    #[inline(always)]
    pub fn fields(&self, buffer: Buffer<'_>, at: usize) -> Option<Fields<N>> {
        let bytes = buffer.0.get(at.checked_sub(TEMPLATE_BACK)?..)?.first_chunk::<TEMPLATE_BYTES>()?;
        let found = words(bytes);
        let mut other = 0;
        for (index, word) in found.iter().enumerate() {
            let change = word ^ self.words[index];
            other |= change & !self.optional[index];
            other |= (change ^ (change >> 1)) & self.pairs[index];
        }
        if other != 0 {
            return None;
        }
        let mut places = [0; N];
        for (slot, place) in places.iter_mut().enumerate() {
            let lane = slot + 2;
            let offset = (found[lane / 4] >> (16 * (lane % 4))) as u16;
            *place = if offset == 0 { 0 } else { at + offset as usize };
        }
        Some(Fields { places, vtable_bytes: self.vtable_bytes })
    }
}

const fn words(bytes: &[u8; TEMPLATE_BYTES]) -> [u64; 3] {
    let mut words = [0; 3];
    let mut index = 0;
    while index < TEMPLATE_BYTES {
        words[index / 8] |= (bytes[index] as u64) << (8 * (index % 8));
        index += 1;
    }
    words
}

// Places are below 16 MiB plus a few offsets of 32 bits: their sums do not overflow 64.
const _: () = assert!(usize::BITS == 64);

impl<'a> Buffer<'a> {
    #[inline(always)]
    fn chunk<const N: usize>(self, at: usize) -> Result<&'a [u8; N], Bounds> {
        self.0.get(at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(Bounds)
    }

    #[inline(always)]
    pub fn u32(self, at: usize) -> Result<u32, Bounds> {
        self.chunk(at).map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Where the root table stands.
    #[inline(always)]
    pub fn root(self) -> Result<usize, Bounds> {
        self.target(0)
    }

    /// Where the offset at `place` leads.
    #[inline(always)]
    pub fn target(self, place: usize) -> Result<usize, Bounds> {
        Ok(place + self.u32(place)? as usize)
    }

    /// The first `N` fields of the table at `at`, through its vtable, wherever that is.
    pub fn fields<const N: usize>(self, at: usize) -> Result<Fields<N>, Bounds> {
        let back = i32::from_le_bytes(*self.chunk(at)?);
        let vtable_at = usize::try_from(at as i64 - i64::from(back)).map_err(|_| Bounds)?;
        let vtable_bytes = usize::from(u16::from_le_bytes(*self.chunk(vtable_at)?));
        let vtable = self.0.get(vtable_at..vtable_at + vtable_bytes).ok_or(Bounds)?;
        let slots = vtable.get(VTABLE_HEADER_BYTES..).ok_or(Bounds)?.as_chunks::<2>().0;
        let mut places = [0; N];
        for (place, slot) in places.iter_mut().zip(slots) {
            let offset = u16::from_le_bytes(*slot);
            *place = if offset == 0 { 0 } else { at + usize::from(offset) };
        }
        Ok(Fields { places, vtable_bytes })
    }

    #[inline(always)]
    pub fn u8(self, place: usize) -> Result<Option<u8>, Bounds> {
        if place == 0 { Ok(None) } else { self.0.get(place).copied().map(Some).ok_or(Bounds) }
    }

    /// A number of 64 bits, whatever they mean; 0 when it is absent.
    #[inline(always)]
    pub fn u64(self, place: usize) -> Result<u64, Bounds> {
        if place == 0 { Ok(0) } else { self.chunk(place).map(|bytes| u64::from_le_bytes(*bytes)) }
    }

    /// A floating-point number; 0 when it is absent.
    #[inline(always)]
    pub fn f64(self, place: usize) -> Result<f64, Bounds> {
        self.u64(place).map(f64::from_bits)
    }

    /// A vector of bytes, or a string without the NUL behind it; empty when it is absent.
    #[inline(always)]
    pub fn bytes(self, place: usize) -> Result<&'a [u8], Bounds> {
        if place == 0 {
            return Ok(&[]);
        }
        let rest = self.0.get(self.target(place)?..).ok_or(Bounds)?;
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(Bounds)?;
        rest.get(..u32::from_le_bytes(*count) as usize).ok_or(Bounds)
    }

    /// A vector of tables; empty when it is absent. All its offsets are there, where they lead is not known yet.
    #[inline]
    pub fn tables(self, place: usize) -> Result<Tables<'a>, Bounds> {
        if place == 0 {
            return Ok(Tables { buffer: self, first: 0, count: 0 });
        }
        let at = self.target(place)?;
        let count = self.u32(at)? as usize;
        let first = at + OFFSET_BYTES;
        if self.0.len().saturating_sub(first) / OFFSET_BYTES < count {
            return Err(Bounds);
        }
        Ok(Tables { buffer: self, first, count })
    }
}

/// A vector of tables.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    buffer: Buffer<'a>,
    first: usize,
    pub count: usize,
}

impl Tables<'_> {
    /// Where the element's table stands.
    #[inline(always)]
    pub fn at(&self, index: usize) -> Result<usize, Bounds> {
        self.buffer.target(self.first + index * OFFSET_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: Template<7> =
        Template::new([18, 0, 36, 0, 28, 0, 20, 0, 32, 0, 4, 0, 8, 0, 12, 0, 16, 0, 0, 0, 20, 0, 0, 0], 0b111_1100);

    #[test]
    fn a_template_is_its_vtable_with_any_optional_slots_left_out_and_nothing_else() {
        let full = [18, 0, 36, 0, 28, 0, 20, 0, 32, 0, 4, 0, 8, 0, 12, 0, 16, 0, 0, 0, 20, 0, 0, 0];
        for absent in 0..32u32 {
            let mut bytes = full;
            for slot in 2..7 {
                if absent >> (slot - 2) & 1 == 1 {
                    bytes[4 + 2 * slot] = 0;
                }
            }
            let buffer = Buffer(&bytes);
            let fields = TEMPLATE.fields(buffer, 20).unwrap();
            assert_eq!(fields, buffer.fields(20).unwrap(), "without {absent:05b}");
            for place in 0..bytes.len() {
                for byte in (0..=255).filter(|&byte| byte != bytes[place]) {
                    let mut changed = bytes;
                    changed[place] = byte;
                    if let Some(fields) = TEMPLATE.fields(Buffer(&changed), 20) {
                        assert_eq!(fields, Buffer(&changed).fields(20).unwrap());
                        assert!(place < 18, "the padding and the offset back are fixed");
                        assert!(byte == full[place] || byte == 0);
                    }
                }
            }
        }
        assert_eq!(TEMPLATE.fields(Buffer(&full[..23]), 20), None);
        assert_eq!(TEMPLATE.fields(Buffer(&full), 19), None);
        assert_eq!(TEMPLATE.fields(Buffer(&full), usize::MAX), None);
    }

    #[test]
    fn offsets_that_lead_outside_are_refused() {
        let far = [0xff; 64];
        let buffer = Buffer(&far);
        let root = buffer.root().unwrap();
        assert_eq!(buffer.fields::<3>(root), Err(Bounds));
        assert_eq!(buffer.fields::<3>(4), Err(Bounds), "a vtable of 65535 bytes");
        assert_eq!(buffer.bytes(4), Err(Bounds));
        assert_eq!(buffer.bytes(62), Err(Bounds));
        assert!(buffer.tables(4).is_err());
        assert_eq!(Buffer(&[]).root(), Err(Bounds));
        // A vtable before the buffer begins, and one that has no room for its own sizes.
        assert_eq!(Buffer(&[100, 0, 0, 0]).fields::<1>(0), Err(Bounds));
        assert_eq!(Buffer(&[0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]).fields::<1>(8), Err(Bounds));
    }

    #[test]
    fn a_count_is_believed_when_its_elements_are_there() {
        let mut bytes = vec![4, 0, 0, 0, 9, 9, 9, 9, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        let tables = Buffer(&bytes).tables(4);
        assert!(tables.is_err(), "the offset leads away");
        bytes[4..8].copy_from_slice(&[4, 0, 0, 0]);
        let tables = Buffer(&bytes).tables(4).unwrap();
        assert_eq!((tables.count, tables.at(0), tables.at(1)), (2, Ok(16), Ok(16)));
        bytes[8] = 3;
        assert!(Buffer(&bytes).tables(4).is_err());
        bytes[8..12].copy_from_slice(&[0xff; 4]);
        assert!(Buffer(&bytes).tables(4).is_err());
    }
}
