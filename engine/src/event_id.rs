//! Event ids that are addresses: whoever holds the key reads tenant, position and time back out of an id.
//!
//! Owns the layout of an id and the permutation in it, a stored contract: clients keep ids, and nothing else does.
//! Must never: give two events one id, show a tenant's number or volume to one without the key, or change for a key.
//!
//! ```text
//!  48 bits          4     12 bits   2    62 bits
//!  received in ms │ 0111 │ high   │ 10 │ low        high, low: 74 bits of permuted (tenant 32, position 42),
//!                                                   as UUIDv7 of RFC 9562, most significant byte first
//! ```

use std::fmt;

use siphasher::sip::SipHasher13;

use crate::ids::{Micros, Position, Tenant};

/// Positions in an id are below this: 4.4 trillion events of one tenant.
pub const ID_POSITIONS_MAX: u64 = 1 << POSITION_BITS;

const POSITION_BITS: u32 = 42;
const TENANT_BITS: u32 = u32::BITS;
const HALF_BITS: u32 = (POSITION_BITS + TENANT_BITS) / 2;
const POSITION_BITS_IN_HIGH: u32 = POSITION_BITS - HALF_BITS;
const HALF_MASK: u64 = (1 << HALF_BITS) - 1;
const HALF_BYTES: usize = HALF_BITS.div_ceil(u8::BITS) as usize;
const _: () = assert!(2 * HALF_BITS == POSITION_BITS + TENANT_BITS);

const MS_BITS: u32 = 48;
const VERSION: u128 = 7;
const VARIANT: u128 = 0b10;
const LOW_BITS: u32 = 62;
const LOW_MASK: u128 = (1 << LOW_BITS) - 1;
const HIGH_MASK: u128 = (1 << 12) - 1;

/// Rounds of the balanced Feistel network. With independent random round functions on halves of n bits, 6 rounds cannot
/// be told from a random permutation by adaptively chosen plaintexts and ciphertexts far fewer than 2^n (Patarin,
/// "Security of random Feistel schemes with 5 or more rounds", CRYPTO 2004): here 2^37 ids of one millisecond. Two more
/// are margin, also against one who gathers a little under each of many tweaks: that tells 6 rounds apart after some
/// 2^2n ids in all, and more rounds later still (Patarin, "Generic attacks on Feistel schemes", ASIACRYPT 2001).
/// 8 is also the number of FF3 (NIST SP 800-38G). What broke FF3 was a tweak that could stand in for the number of the
/// round (Durak and Vaudenay, CRYPTO 2017); here both stand side by side in the round function's message.
const ROUNDS: usize = 8;

/// Ids made side by side: one alone waits for its own hashes most of the time.
const LANES: usize = 2;

/// The secret of a data directory's event ids. Under another key an id leads somewhere else.
#[derive(Clone, Copy)]
pub struct EventIdKey {
    keyed: SipHasher13,
}

impl EventIdKey {
    pub fn new(key: [u8; 16]) -> EventIdKey {
        EventIdKey { keyed: SipHasher13::new_with_key(&key) }
    }

    /// The id of an event. Within a millisecond ids have no order.
    ///
    /// # Panics
    /// If the position is not below `ID_POSITIONS_MAX`, or the time is before 1970 or after the year 10888.
    pub fn id(&self, tenant: Tenant, position: Position, received_at: Micros) -> [u8; 16] {
        let ms = whole_ms(received_at);
        let address = Halves::new(tenant, position);
        let rounds = self.rounds(ms);
        let masks = [rounds.mask(0, address.high)];
        let [address] = rounds.permute([address], masks);
        assemble(ms, address)
    }

    /// The ids of neighbours in a batch, in the order of their positions. Shares what they have in common.
    ///
    /// # Panics
    /// As `id`, for any of them.
    pub fn ids(
        &self,
        tenant: Tenant,
        first_position: Position,
        received_at: Micros,
        count: usize,
        mut out: impl FnMut([u8; 16]),
    ) {
        if count == 0 {
            return;
        }
        let ms = whole_ms(received_at);
        let rounds = self.rounds(ms);
        let address_at = |index: usize| {
            let position = first_position.0.checked_add(index as u64).expect("positions are far below 2^64");
            Halves::new(tenant, Position(position))
        };
        // Neighbours have the same high half, and with it the first round, except across a multiple of 2^37.
        let mut high = address_at(0).high;
        let mut mask = rounds.mask(0, high);
        let mut mask_of = |address: &Halves| {
            if address.high != high {
                high = address.high;
                mask = rounds.mask(0, high);
            }
            mask
        };
        let mut index = 0;
        while index + LANES <= count {
            let addresses: [Halves; LANES] = std::array::from_fn(|lane| address_at(index + lane));
            let masks = std::array::from_fn(|lane| mask_of(&addresses[lane]));
            for address in rounds.permute(addresses, masks) {
                out(assemble(ms, address));
            }
            index += LANES;
        }
        for index in index..count {
            let address = address_at(index);
            let masks = [mask_of(&address)];
            let [address] = rounds.permute([address], masks);
            out(assemble(ms, address));
        }
    }

    /// The address in an id, with its milliseconds since 1970. `None` if it is not a UUIDv7.
    ///
    /// Anyone can make up a UUIDv7, and each one leads somewhere. An event has this id only if it stands at this
    /// position of this tenant **and** was received in this millisecond.
    pub fn invert(&self, id: &[u8; 16]) -> Option<(Tenant, Position, i64)> {
        let (ms, address) = take_apart(id)?;
        let address = self.rounds(ms).restore(address);
        Some((address.tenant(), address.position(), ms as i64))
    }

    /// What depends on the key and the millisecond alone.
    fn rounds(&self, ms: u64) -> Rounds {
        Rounds {
            functions: std::array::from_fn(|round| {
                let mut function = self.keyed;
                std::hash::Hasher::write(&mut function, &(ms << 16 | round as u64).to_le_bytes());
                function
            }),
        }
    }
}

impl fmt::Debug for EventIdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventIdKey(secret)")
    }
}

/// An address, or its image under the permutation.
#[derive(Clone, Copy)]
struct Halves {
    high: u64,
    low: u64,
}

impl Halves {
    fn new(tenant: Tenant, position: Position) -> Halves {
        assert!(position.0 < ID_POSITIONS_MAX, "position {} does not fit an id", position.0);
        let high = u64::from(tenant.0) << POSITION_BITS_IN_HIGH | position.0 >> HALF_BITS;
        Halves { high, low: position.0 & HALF_MASK }
    }

    fn tenant(self) -> Tenant {
        Tenant((self.high >> POSITION_BITS_IN_HIGH) as u32)
    }

    fn position(self) -> Position {
        Position((self.high << HALF_BITS | self.low) & (ID_POSITIONS_MAX - 1))
    }
}

/// The round functions of one millisecond: SipHash-1-3 that has absorbed the number of the round (2 bytes) and the
/// time (6 bytes), and waits for a half (5 bytes), all little-endian.
///
/// 1-3 rather than 2-4: the heavier one is for outputs that an attacker sees, and these stay inside the network, cut
/// to 37 bits. An id in a batch costs 46 ns instead of 68 (2-core EPYC virtual machine, 2026-11, `time_of_an_id`).
struct Rounds {
    functions: [SipHasher13; ROUNDS],
}

impl Rounds {
    /// The caller brings the masks of the first round, since neighbours share it.
    #[inline]
    fn permute<const N: usize>(&self, mut lanes: [Halves; N], masks: [u64; N]) -> [Halves; N] {
        for (lane, mask) in lanes.iter_mut().zip(masks) {
            lane.low ^= mask;
        }
        for round in 1..ROUNDS {
            for lane in &mut lanes {
                if round % 2 == 0 {
                    lane.low ^= self.mask(round, lane.high);
                } else {
                    lane.high ^= self.mask(round, lane.low);
                }
            }
        }
        lanes
    }

    fn restore(&self, mut halves: Halves) -> Halves {
        for round in (0..ROUNDS).rev() {
            if round % 2 == 0 {
                halves.low ^= self.mask(round, halves.high);
            } else {
                halves.high ^= self.mask(round, halves.low);
            }
        }
        halves
    }

    #[inline]
    fn mask(&self, round: usize, half: u64) -> u64 {
        // As short as it can be: with 8 bytes the hash would take one more step for its length.
        self.functions[round].hash(&half.to_le_bytes()[..HALF_BYTES]) & HALF_MASK
    }
}

fn whole_ms(received_at: Micros) -> u64 {
    assert!(0 <= received_at.0, "received at {} us, before 1970", received_at.0);
    let ms = received_at.0 as u64 / 1000;
    assert!(ms < 1 << MS_BITS, "received at {ms} ms, which does not fit an id");
    ms
}

#[expect(clippy::big_endian_bytes, reason = "RFC 9562 puts the most significant byte first")]
fn assemble(ms: u64, halves: Halves) -> [u8; 16] {
    let permuted = u128::from(halves.high) << HALF_BITS | u128::from(halves.low);
    let high = u128::from(ms) << 16 | VERSION << 12 | permuted >> LOW_BITS;
    (high << 64 | VARIANT << LOW_BITS | permuted & LOW_MASK).to_be_bytes()
}

#[expect(clippy::big_endian_bytes, reason = "RFC 9562 puts the most significant byte first")]
fn take_apart(id: &[u8; 16]) -> Option<(u64, Halves)> {
    let bits = u128::from_be_bytes(*id);
    if bits >> 76 & 0xf != VERSION || bits >> LOW_BITS & 0b11 != VARIANT {
        return None;
    }
    let permuted = (bits >> 64 & HIGH_MASK) << LOW_BITS | bits & LOW_MASK;
    let high = (permuted >> HALF_BITS) as u64;
    Some(((bits >> 80) as u64, Halves { high, low: permuted as u64 & HALF_MASK }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const AT: Micros = Micros(1_790_000_000_123_456);

    fn key() -> EventIdKey {
        EventIdKey::new(std::array::from_fn(|index| index as u8))
    }

    fn hex(id: [u8; 16]) -> String {
        let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
    }

    fn ids(tenant: Tenant, first: u64, count: usize) -> Vec<[u8; 16]> {
        let mut ids = Vec::with_capacity(count);
        key().ids(tenant, Position(first), AT, count, |id| ids.push(id));
        ids
    }

    proptest! {
        #[test]
        fn an_id_inverts_to_its_address(
            secret: [u8; 16],
            tenant: u32,
            position in 0..ID_POSITIONS_MAX,
            us in 0..(1_i64 << MS_BITS) * 1000,
        ) {
            let key = EventIdKey::new(secret);
            let id = key.id(Tenant(tenant), Position(position), Micros(us));
            prop_assert_eq!(key.invert(&id), Some((Tenant(tenant), Position(position), us / 1000)));
            prop_assert_eq!(id[6] >> 4, 7);
            prop_assert_eq!(id[8] >> 6, 0b10);
        }

        #[test]
        fn every_uuid_v7_inverts_and_is_the_id_of_what_it_inverts_to(mut id: [u8; 16]) {
            id[6] = id[6] & 0x0f | 0x70;
            id[8] = id[8] & 0x3f | 0x80;
            let (tenant, position, ms) = key().invert(&id).unwrap();
            prop_assert_eq!(key().id(tenant, position, Micros(ms * 1000 + 999)), id);
        }

        #[test]
        fn a_batch_has_the_ids_of_its_events(tenant: u32, first in 0..ID_POSITIONS_MAX - 9, count in 0_usize..9) {
            let alone: Vec<_> =
                (first..).take(count).map(|position| key().id(Tenant(tenant), Position(position), AT)).collect();
            prop_assert_eq!(ids(Tenant(tenant), first, count), alone);
        }
    }

    #[test]
    fn corners_of_the_address_invert() {
        for tenant in [0, 1, u32::MAX] {
            for position in [0, 1, HALF_MASK, HALF_MASK + 1, ID_POSITIONS_MAX - 1] {
                for ms in [0, 1, (1 << MS_BITS) - 1] {
                    let address = (Tenant(tenant), Position(position), ms);
                    assert_eq!(key().invert(&key().id(address.0, address.1, Micros(ms * 1000))), Some(address));
                }
            }
        }
    }

    #[test]
    fn a_batch_may_cross_into_another_high_half() {
        let first = (1 << HALF_BITS) - 3;
        let alone = (first..first + 6).map(|position| key().id(Tenant(9), Position(position), AT));
        assert_eq!(ids(Tenant(9), first, 6), alone.collect::<Vec<_>>());
    }

    /// Clients keep these. If this test fails, the ids that they hold lead nowhere.
    #[test]
    fn ids_are_the_same_for_ever() {
        let check = |tenant, position, us, expected: &str| {
            assert_eq!(hex(key().id(Tenant(tenant), Position(position), Micros(us))), expected);
        };
        check(1, 1, 0, "00000000-0000-7cbb-9ff1-d7193f09de21");
        check(1, 1, AT.0, "01a0c450-6c7b-765a-aab0-aab810b6abe3");
        check(1, 2, AT.0, "01a0c450-6c7b-709f-bc09-8691ab815176");
        check(2, 1, AT.0, "01a0c450-6c7b-742f-82d4-1ddd2b57040f");
        check(7, 1_234_567_890_123, AT.0, "01a0c450-6c7b-7f3f-a6b4-60f5a8d680dc");
        check(u32::MAX, ID_POSITIONS_MAX - 1, (1 << MS_BITS) * 1000 - 1, "ffffffff-ffff-764c-ae7a-0ff36ca032f3");
        let other = EventIdKey::new([0xff; 16]);
        assert_eq!(hex(other.id(Tenant(1), Position(1), AT)), "01a0c450-6c7b-731b-98fd-ad6948c000f3");
    }

    #[test]
    fn a_million_neighbours_have_a_million_ids() {
        let mut ids = ids(Tenant(3), 1, 1_000_000);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 1_000_000);
    }

    #[test]
    fn tenants_times_and_keys_differ_in_the_permuted_bits() {
        let permuted = |id: [u8; 16]| {
            let (_, halves) = take_apart(&id).unwrap();
            (halves.high, halves.low)
        };
        let other = EventIdKey::new([7; 16]);
        let seen = BTreeSet::from([
            permuted(key().id(Tenant(1), Position(1), AT)),
            permuted(key().id(Tenant(2), Position(1), AT)),
            permuted(key().id(Tenant(1), Position(1), Micros(AT.0 + 1000))),
            permuted(other.id(Tenant(1), Position(1), AT)),
        ]);
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn another_key_inverts_to_something_else() {
        let other = EventIdKey::new([7; 16]);
        for position in 1..1000 {
            let id = key().id(Tenant(1), Position(position), AT);
            let (tenant, found, ms) = other.invert(&id).unwrap();
            assert_ne!((tenant, found), (Tenant(1), Position(position)));
            assert_eq!(ms, AT.0 / 1000);
        }
    }

    #[test]
    fn what_is_not_a_uuid_v7_has_no_address() {
        let id = key().id(Tenant(1), Position(1), AT);
        for version in (0..16).filter(|&version| version != 7) {
            let mut id = id;
            id[6] = id[6] & 0x0f | version << 4;
            assert_eq!(key().invert(&id), None);
        }
        for variant in [0b00, 0b01, 0b11] {
            let mut id = id;
            id[8] = id[8] & 0x3f | variant << 6;
            assert_eq!(key().invert(&id), None);
        }
    }

    /// How often each of the 74 bits differs between two ids, over many pairs: near half of the pairs for every bit.
    fn check_avalanche(pair: impl Fn(u64) -> [[u8; 16]; 2]) {
        const PAIRS: u64 = 10_000;
        let mut flips = [0_u64; 74];
        let mut total = 0;
        for number in 0..PAIRS {
            let [a, b] = pair(number);
            let halves = [a, b].map(|id| take_apart(&id).unwrap().1);
            let high = halves[0].high ^ halves[1].high;
            let low = halves[0].low ^ halves[1].low;
            total += u64::from(high.count_ones() + low.count_ones());
            for (bit, flips) in flips.iter_mut().enumerate() {
                *flips += u64::from((u128::from(high) << HALF_BITS | u128::from(low)) & 1 << bit != 0);
            }
        }
        // Six standard deviations of a fair coin: 300 of 10,000 throws of one, 0.26 in the mean number of heads of 74.
        assert!(flips.iter().all(|flips| (4700..5300).contains(flips)), "{flips:?}");
        let mean = total as f64 / PAIRS as f64;
        assert!((mean - 37.0).abs() < 0.3, "{mean} bits");
    }

    #[test]
    fn a_neighbour_differs_in_half_of_the_bits() {
        let at = |tenant, position| key().id(Tenant(tenant), Position(position), AT);
        check_avalanche(|number| [at(1, number), at(1, number + 1)]);
        check_avalanche(|number| [at(number as u32, 1), at(number as u32 + 1, 1)]);
        check_avalanche(|number| [at(1, number << 28), at(1, (number << 28) ^ 1 << 41)]);
    }

    #[test]
    #[should_panic(expected = "does not fit an id")]
    fn a_position_beyond_the_address_is_refused() {
        key().id(Tenant(1), Position(ID_POSITIONS_MAX), AT);
    }

    #[test]
    #[should_panic(expected = "does not fit an id")]
    fn a_batch_that_ends_beyond_the_address_is_refused() {
        ids(Tenant(1), ID_POSITIONS_MAX - 2, 3);
    }

    #[test]
    #[should_panic(expected = "before 1970")]
    fn a_time_before_1970_is_refused() {
        key().id(Tenant(1), Position(1), Micros(-1));
    }

    #[test]
    #[should_panic(expected = "does not fit an id")]
    fn a_time_beyond_48_bits_is_refused() {
        key().id(Tenant(1), Position(1), Micros((1 << MS_BITS) * 1000));
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", key()), "EventIdKey(secret)");
    }

    #[test]
    #[ignore = "prints times: cargo test --release -p ringlog-engine event_id -- --ignored --nocapture"]
    #[expect(clippy::disallowed_methods, reason = "a measurement, run by hand")]
    fn time_of_an_id() {
        const COUNT: u64 = 10_000_000;
        let key = std::hint::black_box(key());
        let report = |what: &str, mut run: Box<dyn FnMut() -> u8>| {
            let started = std::time::Instant::now();
            std::hint::black_box(run());
            println!("{what}: {:.1} ns per id", started.elapsed().as_nanos() as f64 / COUNT as f64);
        };
        for batch in [1, 10, 100, 1000] {
            let run = move || {
                let mut sum = 0_u8;
                for first in (0..COUNT).step_by(batch) {
                    key.ids(Tenant(1), Position(first), AT, batch, |id| sum ^= id[7] ^ id[15]);
                }
                sum
            };
            report(&format!("batch of {batch}"), Box::new(run));
        }
        report("alone", Box::new(move || (0..COUNT).fold(0, |sum, n| sum ^ key.id(Tenant(1), Position(n), AT)[15])));
        let id = key.id(Tenant(1), Position(1), AT);
        let inverted = move || {
            (0..COUNT).fold(0, |sum, n| {
                let mut id = id;
                id[15] ^= n as u8;
                sum ^ key.invert(&id).map_or(0, |(_, position, _)| position.0 as u8)
            })
        };
        report("inverted", Box::new(inverted));
    }
}
