//! Everything that the end and one wrong byte can make of a golden input. For tests.

/// Each beginning of an input, from nothing of it to all but its last byte.
pub fn every_cut(golden: &[u8], mut check: impl FnMut(&[u8])) {
    for len in 0..golden.len() {
        check(&golden[..len]);
    }
}

/// Each of the 255 other values at each place, which comes along.
pub fn every_wrong_byte(golden: &[u8], mut check: impl FnMut(usize, &[u8])) {
    let mut changed = golden.to_vec();
    for place in 0..golden.len() {
        for value in (0..=u8::MAX).filter(|&value| value != golden[place]) {
            changed[place] = value;
            check(place, &changed);
        }
        changed[place] = golden[place];
    }
}
