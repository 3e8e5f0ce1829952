//! Inputs made of inputs: what lies near to something that is valid reaches further than noise does.

use ringlog_engine::sim::rng::Rng;

/// No input grows beyond it.
pub const INPUT_BYTES_MAX: usize = 96 << 10;

/// Bytes and numbers at which readers decide something.
const BYTES: [u8; 20] = *b"\0\x01\x1f\x20\x7f\x80\xff\n\r\t\"\\{}[]:,0;";
const NUMBERS: [u32; 15] =
    [0, 1, 2, 4, 16, 0x7f, 0xff, 0x100, 0x7fff, 0xffff, 0x1_0000, 0xff_ffff, 0x7fff_ffff, 0x8000_0000, u32::MAX];
const DECIMALS: [&str; 10] =
    ["0", "1", "007", "255", "4096", "65536", "4294967296", "9223372036854775807", "18446744073709551616", "1e400"];

/// Changes `input` in one to eight places, with parts of `other` and of `words` among them.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], words: &[&[u8]], rng: &mut Rng) {
    for _ in 0..1 << rng.below(4) {
        change(input, other, words, rng);
        input.truncate(INPUT_BYTES_MAX);
    }
}

fn change(input: &mut Vec<u8>, other: &[u8], words: &[&[u8]], rng: &mut Rng) {
    if input.is_empty() {
        input.extend_from_slice(other);
        return;
    }
    let at = rng.index(input.len());
    match rng.below(15) {
        0 => input[at] ^= 1 << rng.below(8),
        1 => input[at] = rng.draw() as u8,
        2 => input[at] = BYTES[rng.index(BYTES.len())],
        // Offsets, counts and slots that are a little off lead to other things.
        3 => input[at] = input[at].wrapping_add(rng.below(17) as u8).wrapping_sub(8),
        4 => {
            let mut number = NUMBERS[rng.index(NUMBERS.len())].to_le_bytes();
            if rng.chance(1, 2) {
                number.reverse();
            }
            let width = [2, 4][rng.index(2)].min(input.len() - at);
            input[at..at + width].copy_from_slice(&number[..width]);
        }
        5 => drop(input.drain(at..part_end(input, at, rng))),
        6 => {
            let part = input[at..part_end(input, at, rng)].to_vec();
            let times = [1, 1, 2, 40][rng.index(4)];
            insert(input, at, &part.repeat(times));
        }
        7 => {
            let part = input[at..part_end(input, at, rng)].to_vec();
            let to = rng.index(input.len() - part.len() + 1);
            input[to..to + part.len()].copy_from_slice(&part);
        }
        8 => input.truncate(at),
        9 => insert(input, at, &[rng.draw() as u8, BYTES[rng.index(BYTES.len())]][rng.index(2)..]),
        10 if !words.is_empty() => insert(input, at, words[rng.index(words.len())]),
        11 if !words.is_empty() => {
            let word = words[rng.index(words.len())];
            let to = input.len().min(at + word.len());
            input.splice(at..to, word.iter().copied());
        }
        12 if !other.is_empty() => {
            let from = rng.index(other.len());
            let part = other[from..part_end(other, from, rng)].to_vec();
            insert(input, at, &part);
        }
        13 if !other.is_empty() => {
            input.truncate(at);
            input.extend_from_slice(&other[rng.index(other.len())..]);
        }
        _ => replace_number(input, at, rng),
    }
}

fn part_end(input: &[u8], at: usize, rng: &mut Rng) -> usize {
    let longest = [4, 32, 1024][rng.index(3)].min(input.len() - at);
    at + 1 + rng.index(longest)
}

fn insert(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    input.splice(at..at, part.iter().copied());
}

/// Another number in the place of the first one behind `at` that is written in digits.
fn replace_number(input: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let Some(from) = input[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else { return };
    let len = input[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    input.splice(from..from + len, DECIMALS[rng.index(DECIMALS.len())].bytes());
}

/// Places at which an input may arrive in pieces, in order; the input decides, so that it fails alone as it failed in a run.
pub fn cuts(input: &[u8]) -> Vec<usize> {
    let mut rng = Rng::new(
        input.iter().fold(input.len() as u64, |sum, &byte| ringlog_engine::sim::rng::mix(sum ^ u64::from(byte))),
    );
    let count = [0, 1, 3, 12][rng.index(4)];
    let mut places: Vec<usize> = if rng.chance(1, 4) && input.len() < 2048 {
        (0..=input.len()).collect()
    } else {
        (0..count).map(|_| rng.index(input.len() + 1)).collect()
    };
    places.sort_unstable();
    places.push(input.len());
    places
}
