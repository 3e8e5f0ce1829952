//! Whether the time of a check tells how much of a guess is right.
//!
//! `cargo run --release -p ringlog-benches --bin timing` takes a million durations of each class and compares the classes
//! (see `welch`). Two classes differ in nothing but where the guess is wrong: they are drawn in random order, and each
//! guess is copied to the same place first. Fewer of anything on one side would be known to the caches and to the branch
//! predictor, and look like a leak.
//!
//! As in dudect no guess is made twice: each is at another key, and each table of keys is used up by one guess at each of
//! them. A guess may take longer than another, as when it falls on a crowded place in a table. Were a few guesses
//! repeated, the averages of the classes would differ by such luck, and the more samples the more surely.
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

/// Guesses that are made before the first of them is timed.
const BATCH: usize = 1000;
/// Keys in a table, and guesses until the next table. Those at the first table do not count: caches and predictors are then
/// as they will be.
const KEYS: u32 = 10_000;
/// Seeds are numbered above all rounds of one.
const ROUND_BITS: u32 = 36;
const SEEDS: u64 = 1 << 12;
/// Letters of a token that are forged: no two guesses are the same.
const FORGED_LETTERS: usize = 8;
/// Another digit than the right one.
const WRONG_DIGITS: u64 = 15;
/// Another letter of 26 than the right one.
const WRONG_LETTERS: u64 = 25;

#[derive(Parser)]
struct Options {
    /// Durations of each class, up to whole tables. A class that seems to leak is measured again with four times as many.
    #[arg(long, default_value_t = 1_000_000)]
    samples: u64,
    /// Compares a password for an unknown address with a wrong one too, with this many of each: 20 to 200 ms each.
    #[arg(long, default_value_t = 0)]
    passwords: u64,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..SEEDS))]
    seed: u64,
}

/// What a guess is made of.
struct Draw {
    class: usize,
    /// Of the key that it is at. No other guess has the same.
    number: u64,
    bits: u64,
}

impl Draw {
    fn new(number: u64) -> Draw {
        // Keys are made of the same generator's first numbers.
        let bits = mixed(!number);
        Draw { class: (bits & 1) as usize, number, bits: bits >> 1 }
    }
}

/// Two classes of guesses, all of one length, at what knows the right ones.
struct Comparison<T> {
    name: &'static str,
    /// What [`KEYS`] guesses are shown to, by the number of the first.
    target: fn(u64) -> T,
    guess: fn(&T, &Draw) -> Vec<u8>,
    check: fn(&mut T, &[u8]),
}

impl<T> Comparison<T> {
    /// `sample_count` durations of each class in nanoseconds, on average.
    fn measure(&self, sample_count: u64, seed: u64) -> [Vec<u64>; 2] {
        let mut durations = [Vec::new(), Vec::new()];
        let mut guess = Vec::new();
        let rounds = seed << ROUND_BITS..(seed << ROUND_BITS) + u64::from(KEYS) + 2 * sample_count;
        for first in rounds.clone().step_by(KEYS as usize) {
            let mut target = (self.target)(first);
            for first_of_batch in (first..first + u64::from(KEYS)).step_by(BATCH) {
                // Made beforehand: a byte that was just changed is still on its way to the cache, and what reads it waits.
                let batch: Vec<(usize, Vec<u8>)> = (first_of_batch..first_of_batch + BATCH as u64)
                    .map(|number| {
                        let draw = Draw::new(number);
                        (draw.class, (self.guess)(&target, &draw))
                    })
                    .collect();
                for (class, next) in &batch {
                    guess.clear();
                    guess.extend_from_slice(next);
                    let started_at = Instant::now();
                    (self.check)(&mut target, black_box(&guess));
                    let elapsed = started_at.elapsed();
                    if first != rounds.start {
                        durations[*class].push(elapsed.as_nanos() as u64);
                    }
                }
            }
        }
        durations
    }

    /// Measures, and once more with four times as many if that looks like a leak: the machine may have been busy.
    fn judge(&self, options: &Options) -> Finding {
        let mut finding = None;
        for samples in [options.samples, 4 * options.samples] {
            let [first, second] = self.measure(samples, options.seed);
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

/// The key with another digit at its beginning or at its end.
fn wrong_at_an_end(key: String, draw: &Draw) -> Vec<u8> {
    with_wrong_digit(key, [0, STREAMING_KEY_CHARS - 1][draw.class], draw.bits)
}

/// The key with one of the 15 other digits in this place.
fn with_wrong_digit(key: String, at: usize, bits: u64) -> Vec<u8> {
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
    println!("a comparison that leaks, which must be found:");
    let leaking = Comparison {
        name: "first against last digit wrong",
        target: streaming_key,
        guess: |key, draw| wrong_at_an_end(key.clone(), draw),
        check: |key, guess| {
            black_box(leaking_compare(guess, key.as_bytes()));
        },
    };
    if !leaking.judge(&options).is_leak() {
        println!("it was not found (threshold {THRESHOLD}): too noisy, or too few samples");
        return ExitCode::from(2);
    }
    println!("what the server does:");
    let mut findings: Vec<Finding> = streaming_keys().iter().map(|comparison| comparison.judge(&options)).collect();
    findings.push(tokens().judge(&options));
    if options.passwords != 0 {
        findings.push(passwords(&options));
    }
    if findings.iter().any(Finding::is_leak) {
        println!("a leak");
        return ExitCode::from(1);
    }
    println!("no leak found (threshold {THRESHOLD})");
    ExitCode::SUCCESS
}

/// A core's table after each of its keys was used: it recognises them all.
fn used_table(first: u64, tokens: u32) -> Table {
    let mut table = Table::new(Counts { first, streaming: KEYS, programmatic: 0, tokens });
    let keys = (first..).take(KEYS as usize).map(streaming_key);
    for secret in keys.chain(table.tokens.clone()) {
        let presented = Presented::none().api_key(secret.as_bytes());
        assert!(table.credentials.authenticate(presented, NOW).is_ok());
    }
    table
}

fn refuse(table: &mut Table, guess: &[u8]) {
    let presented = Presented::none().api_key(guess);
    assert!(black_box(table.credentials.authenticate(presented, NOW)).is_err());
}

fn streaming_keys() -> [Comparison<Table>; 3] {
    let comparison = |name, guess| Comparison { name, target: |first| used_table(first, 0), guess, check: refuse };
    [
        comparison("first against last digit wrong", |_, draw| wrong_at_an_end(streaming_key(draw.number), draw)),
        comparison("unknown key against one with its end wrong", |_, draw| match draw.class {
            0 => unknown_key(draw.number).into_bytes(),
            _ => with_wrong_digit(streaming_key(draw.number), STREAMING_KEY_CHARS - 1, draw.bits),
        }),
        comparison("unknown key against a revoked one", |_, draw| match draw.class {
            0 => unknown_key(draw.number).into_bytes(),
            _ => revoked_key(draw.number).into_bytes(),
        }),
    ]
}

/// A token that is recognised, forged where its claims begin and where its MAC begins. Its header is no secret.
fn tokens() -> Comparison<Table> {
    let guess = |table: &Table, draw: &Draw| {
        let token = &table.tokens[0];
        let start = token.match_indices('.').nth(draw.class).expect("a token has three parts").0 + 1;
        let mut guess = token.clone().into_bytes();
        let mut bits = draw.bits;
        for letter in &mut guess[start..][..FORGED_LETTERS] {
            // Base64 of one length: other letters are another text.
            let others = (b'A'..=b'Z').filter(|other| other != letter);
            *letter = others.cycle().nth((bits % WRONG_LETTERS) as usize).expect("it goes round");
            bits /= WRONG_LETTERS;
        }
        guess
    };
    let name = "token with its claims against its MAC forged";
    Comparison { name, target: |first| used_table(first, 1), guess, check: refuse }
}

/// An address that nobody has, and a wrong password for one that somebody has.
fn passwords(options: &Options) -> Finding {
    let mut hasher = Hasher::new();
    let stored = hasher.hash(&Password::presented("the password").expect("it is short"));
    let mut durations = [Vec::new(), Vec::new()];
    for round in 0..2 * options.passwords {
        let Draw { class, number, .. } = Draw::new(options.seed << ROUND_BITS | round);
        let wrong = Password::presented(&unknown_key(number)).expect("it is short");
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
