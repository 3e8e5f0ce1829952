//! Whether the time of a check tells how much of a guess is right.
//!
//! `cargo run --release -p ringlog-benches --bin timing` takes a million durations of each class and compares the classes
//! (see `welch`). Two classes differ in nothing but where the guess is wrong: both are drawn from equally many different
//! guesses with equally many different beginnings and ends, in random order, and each guess is copied to the same place
//! first. Fewer of anything on one side would be known to the caches and to the branch predictor, and look like a leak.
//!
//! A comparison that does leak is tested along: if that one is not found, the answer is worth nothing.
//!
//! Exit code 0: no leak found; 1: a leak; 2: too noisy to tell.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use ringlog_benches::credentials::{Counts, NOW, Table, mixed, revoked_key, streaming_key, unknown_key};
use ringlog_benches::welch::{Finding, THRESHOLD, compare};
use ringlog_server::auth::credentials::Presented;
use ringlog_server::auth::password::{Hasher, Password};
use ringlog_server::auth::secret::STREAMING_KEY_CHARS;

/// Checks before the first that counts: caches and predictors are then as they will be.
const WARM_UP: u64 = 10_000;
/// Guesses that are made before the first of them is timed.
const BATCH: usize = 1000;
const KEYS: u32 = 10_000;
/// Another digit than the right one.
const WRONG_DIGITS: u64 = 15;

#[derive(Parser)]
struct Options {
    /// Durations of each class. A class that seems to leak is measured again with four times as many.
    #[arg(long, default_value_t = 1_000_000)]
    samples: u64,
    /// Compares a password for an unknown address with a wrong one too, with this many of each: 20 to 200 ms each.
    #[arg(long, default_value_t = 0)]
    passwords: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Two classes of guesses, all of one length.
struct Classes<'a> {
    name: &'static str,
    /// The guess of a class for random bits.
    guess: &'a dyn Fn(usize, u64) -> Vec<u8>,
}

impl Classes<'_> {
    /// `sample_count` durations of each class in nanoseconds, on average.
    fn measure(&self, sample_count: u64, seed: u64, mut check: impl FnMut(&[u8])) -> [Vec<u64>; 2] {
        let mut durations = [Vec::new(), Vec::new()];
        let mut guess = (self.guess)(0, 0);
        for first in (0..WARM_UP + 2 * sample_count).step_by(BATCH) {
            // Made beforehand: a byte that was just changed is still on its way to the cache, and what reads it waits.
            let batch: Vec<(u64, usize, Vec<u8>)> = (first..first + BATCH as u64)
                .map(|round| {
                    let bits = mixed(seed << 40 | round);
                    let class = (bits & 1) as usize;
                    (round, class, (self.guess)(class, bits >> 1))
                })
                .collect();
            for (round, class, next) in &batch {
                guess.copy_from_slice(next);
                let started_at = Instant::now();
                check(black_box(&guess));
                let elapsed = started_at.elapsed();
                if WARM_UP <= *round {
                    durations[*class].push(elapsed.as_nanos() as u64);
                }
            }
        }
        durations
    }

    /// Measures, and once more with four times as many if that looks like a leak: the machine may have been busy.
    fn judge(&self, options: &Options, mut check: impl FnMut(&[u8])) -> Finding {
        let mut finding = None;
        for samples in [options.samples, 4 * options.samples] {
            let [first, second] = self.measure(samples, options.seed, &mut check);
            let found = compare(&first, &second);
            println!(
                "{:<44} |t| {:>8.2} at {:>5.1} % of {} samples, {:+.2} ns",
                self.name,
                found.t.abs(),
                found.cut * 100.0,
                first.len() + second.len(),
                found.difference
            );
            finding = Some(found);
            if !found.is_leak() {
                break;
            }
        }
        finding.expect("it was measured at least once")
    }
}

/// One of the keys in the table, with one digit changed: for each key always into the same one.
fn with_wrong_digit(at: usize, bits: u64) -> Vec<u8> {
    let number = bits % u64::from(KEYS);
    changed(streaming_key(number), at, mixed(number))
}

/// The key with one of the 15 other digits in this place.
fn changed(key: String, at: usize, bits: u64) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut guess = key.into_bytes();
    let digit = DIGITS.iter().position(|digit| *digit == guess[at]).expect("a key is hex");
    guess[at] = DIGITS[(digit + 1 + (bits % WRONG_DIGITS) as usize) % DIGITS.len()];
    guess
}

/// What must be found: it stops at the first byte that differs.
#[inline(never)]
fn leaking_compare(left: &[u8], right: &[u8]) -> bool {
    left.iter().zip(right).all(|(left, right)| black_box(left) == black_box(right))
}

fn main() -> ExitCode {
    let options = Options::parse();
    let place = |class: usize| [0, STREAMING_KEY_CHARS - 1][class];
    let ends = |class, bits| with_wrong_digit(place(class), bits);
    let wrong_at_the_ends = Classes { name: "first against last digit wrong", guess: &ends };
    println!("a comparison that leaks, which must be found:");
    let one = streaming_key(7);
    let ends_of_one = |class, bits| changed(streaming_key(7), place(class), bits);
    let leaking = Classes { name: "first against last digit wrong", guess: &ends_of_one };
    let control = leaking.judge(&options, |guess| {
        black_box(leaking_compare(guess, one.as_bytes()));
    });
    if !control.is_leak() {
        println!("it was not found (threshold {THRESHOLD}): too noisy, or too few samples");
        return ExitCode::from(2);
    }
    println!("what the server does:");
    let (mut findings, revoked) = streaming_keys(&options, &wrong_at_the_ends);
    findings.push(tokens(&options));
    if options.passwords != 0 {
        findings.push(passwords(&options));
    }
    if revoked.is_leak() {
        println!(
            "a revoked key can be told from one that never was, by whoever has all of it: no part of a key is learnt"
        );
    }
    if findings.iter().any(Finding::is_leak) {
        println!("a leak");
        return ExitCode::from(1);
    }
    println!("no leak found (threshold {THRESHOLD})");
    ExitCode::SUCCESS
}

/// What is judged, and how a revoked key compares: its row is still there and is looked at, which takes a key to get to.
fn streaming_keys(options: &Options, wrong_at_the_ends: &Classes<'_>) -> (Vec<Finding>, Finding) {
    let mut table = Table::new(Counts { streaming: KEYS, programmatic: 0, tokens: 0 });
    let near = |class, bits| match class {
        0 => unknown_key(bits % u64::from(KEYS)).into_bytes(),
        _ => with_wrong_digit(STREAMING_KEY_CHARS - 1, bits),
    };
    let revoked = |class, bits| match class {
        0 => unknown_key(bits % u64::from(KEYS)).into_bytes(),
        _ => revoked_key(bits % u64::from(KEYS)).into_bytes(),
    };
    let unknown_or_near = Classes { name: "unknown key against one with its end wrong", guess: &near };
    let unknown_or_revoked = Classes { name: "unknown key against a revoked one", guess: &revoked };
    let mut check = |guess: &[u8]| {
        let presented = Presented::none().api_key(guess);
        assert!(black_box(table.credentials.authenticate(presented, NOW)).is_err());
    };
    let judged = [wrong_at_the_ends, &unknown_or_near].map(|classes| classes.judge(options, &mut check)).into();
    (judged, unknown_or_revoked.judge(options, &mut check))
}

/// A token that is in the cache, forged where its claims begin and where its MAC begins. Its header is no secret.
fn tokens(options: &Options) -> Finding {
    let mut table = Table::new(Counts { streaming: KEYS, programmatic: 0, tokens: 1 });
    let token = table.tokens[0].clone();
    let good = Presented::none().api_key(token.as_bytes());
    assert!(table.credentials.authenticate(good, NOW).is_ok());
    let starts: Vec<usize> = token.match_indices('.').map(|(at, _)| at + 1).collect();
    let forged = |class: usize, bits: u64| {
        let mut guess = token.clone().into_bytes();
        // Base64 of one length: other letters are another text. Three of them: with few guesses it would show which of
        // them are looked for where the token's entry lies, and that is another place for each key of the hash.
        let mut bits = bits as usize;
        for letter in &mut guess[starts[class]..][..3] {
            let others = (b'A'..=b'Z').filter(|other| other != letter);
            *letter = others.cycle().nth(bits % 25).expect("it goes round");
            bits /= 25;
        }
        guess
    };
    let classes = Classes { name: "token with its claims against its MAC forged", guess: &forged };
    classes.judge(options, |guess| {
        let presented = Presented::none().api_key(guess);
        assert!(black_box(table.credentials.authenticate(presented, NOW)).is_err());
    })
}

/// An address that nobody has, and a wrong password for one that somebody has.
fn passwords(options: &Options) -> Finding {
    let mut hasher = Hasher::new();
    let stored = hasher.hash(&Password::presented("the password").expect("it is short"));
    let wrong = Password::presented("another one").expect("it is short");
    let mut durations = [Vec::new(), Vec::new()];
    for round in 0..2 * options.passwords {
        let class = (mixed(options.seed << 40 | round) & 1) as usize;
        let against = [None, Some(&stored)][class];
        let started_at = Instant::now();
        black_box(hasher.verify(against, &wrong));
        durations[class].push(started_at.elapsed().as_nanos() as u64);
    }
    let finding = compare(&durations[0], &durations[1]);
    println!(
        "{:<44} |t| {:>8.2} at {:>5.1} % of {} samples, {:+.0} ns",
        "unknown address against a wrong password",
        finding.t.abs(),
        finding.cut * 100.0,
        2 * options.passwords,
        finding.difference
    );
    finding
}
