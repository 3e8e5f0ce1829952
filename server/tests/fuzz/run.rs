//! Runs a target: its golden inputs, what lies one step beside them, then what the mutator makes.
//!
//! Owns what a failure leaves behind: a file with the input, and the command that runs it again. Without coverage of the
//! compiler's, a target says in one number what became of an input; an input with a number that was not there is kept and built on.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringlog_engine::sim::rng::Rng;

use crate::mutate::mutate;

/// Says what became of an input, and panics where something does not hold. What it keeps from input to input is what a core keeps.
pub type Check = Box<dyn FnMut(&[u8]) -> u64>;

pub struct Target {
    pub name: &'static str,
    /// Inputs that are valid.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// What the grammar has words for.
    pub words: &'static [&'static [u8]],
    /// Makes lengths and checksums right again, so that what is behind them is reached.
    pub mend: fn(&mut [u8]),
    pub checker: fn() -> Check,
}

/// For a target without anything to mend.
pub fn leave(_: &mut [u8]) {}

/// What became of an input, as one number.
pub fn mark(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// How long a number is: what differs in length alone is not new.
pub fn size(count: usize) -> u32 {
    (count as u64 + 1).ilog2()
}

const SHORT_SEED: u64 = 1;
const SHORT_INPUTS: u64 = 2_500;
/// In the short run, longer inputs are not changed at every place.
const SWEPT_BYTES: usize = 1024;
const KEPT_INPUTS_MAX: usize = 512;
const KEPT_BYTES_MAX: usize = 8 << 10;
/// Far beyond what any input takes: it only ends a run that would hang.
const INPUT_WITHIN: Duration = Duration::from_secs(20);

pub struct Run {
    target: &'static Target,
    corpus: Vec<Vec<u8>>,
    seen: HashSet<u64>,
    check: Check,
    rng: Rng,
    watch: Option<Watch>,
    pub input_count: u64,
}

impl Run {
    pub fn new(target: &'static Target, seed: u64) -> Run {
        Run {
            target,
            corpus: (target.corpus)(),
            seen: HashSet::new(),
            check: (target.checker)(),
            rng: Rng::new(seed).fork(target.name),
            watch: None,
            input_count: 0,
        }
    }

    /// `Err` with the input that fails.
    fn input(&mut self, input: &[u8]) -> Result<bool, Vec<u8>> {
        self.input_count += 1;
        if let Some(watch) = &self.watch {
            watch.begin(input);
        }
        let check = &mut self.check;
        let outcome = catch_unwind(AssertUnwindSafe(|| check(input))).map_err(|_| input.to_vec());
        if let Some(watch) = &self.watch {
            watch.end();
        }
        outcome.map(|what| self.seen.insert(what))
    }

    /// Golden inputs, every truncation of them, and every byte changed by each of `changes`; the short ones first, and no
    /// more when `is_over`, which is said.
    fn sweep(
        &mut self,
        swept_bytes: usize,
        changes: &[fn(u8, usize) -> u8],
        is_over: impl Fn() -> bool,
    ) -> Result<bool, Vec<u8>> {
        let mut corpus = (self.target.corpus)();
        corpus.sort_by_key(Vec::len);
        for golden in corpus {
            self.input(&golden)?;
            let step = golden.len().div_ceil(swept_bytes).max(1);
            let mut changed = golden.clone();
            for place in (0..golden.len()).step_by(step) {
                if is_over() {
                    return Ok(false);
                }
                self.input_and_mended(&golden[..place])?;
                for change in changes {
                    changed[place] = change(golden[place], place);
                    self.input_and_mended(&changed)?;
                }
                changed[place] = golden[place];
            }
        }
        Ok(true)
    }

    fn input_and_mended(&mut self, input: &[u8]) -> Result<(), Vec<u8>> {
        self.input(input)?;
        let mut mended = input.to_vec();
        (self.target.mend)(&mut mended);
        if mended != input {
            self.input(&mended)?;
        }
        Ok(())
    }

    /// So many inputs of the mutator's.
    pub fn random(&mut self, count: u64) -> Result<(), Vec<u8>> {
        for _ in 0..count {
            let mut input = self.corpus[self.rng.index(self.corpus.len())].clone();
            let other = &self.corpus[self.rng.index(self.corpus.len())];
            mutate(&mut input, other, self.target.words, &mut self.rng);
            if self.rng.chance(3, 4) {
                (self.target.mend)(&mut input);
            }
            let is_new = self.input(&input)?;
            if is_new && input.len() <= KEPT_BYTES_MAX && self.corpus.len() < KEPT_INPUTS_MAX {
                self.corpus.push(input);
            }
        }
        Ok(())
    }
}

/// The run of the gate: the same inputs every time.
pub fn shortly(target: &'static Target) {
    const FEW: [fn(u8, usize) -> u8; 2] =
        [|was, place| was ^ 1 << (place % 8), |was, place| [0, 0xff, b'"', b'\n', was.wrapping_add(4)][place % 5]];
    let mut run = Run::new(target, SHORT_SEED);
    let outcome = run.sweep(SWEPT_BYTES, &FEW, || false).and_then(|_| run.random(SHORT_INPUTS));
    if let Err(input) = outcome {
        fail(target, SHORT_SEED, &input);
    }
    // A target that sees the same in all of its inputs looks at nothing.
    assert!(run.seen.len() > 3, "{} outcomes", run.seen.len());
}

/// The run of `scripts/fuzz.sh`, which sets the environment.
pub fn as_asked(targets: &[&'static Target]) {
    let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let number = |name: &str, or: u64| text(name).map_or(or, |text| text.parse().expect("a number"));
    let asked = text("RINGLOG_FUZZ_TARGET");
    let chosen: Vec<_> =
        targets.iter().filter(|target| asked.as_deref().is_none_or(|name| name == target.name)).collect();
    let names: Vec<_> = targets.iter().map(|target| target.name).collect();
    assert!(!chosen.is_empty(), "targets: {}", names.join(", "));
    if let Some(file) = text("RINGLOG_FUZZ_INPUT") {
        let input = std::fs::read(file).unwrap();
        for target in chosen {
            println!("{}: {:x}", target.name, (target.checker)()(&input));
        }
        return;
    }
    let seed = number("RINGLOG_FUZZ_SEED", 1);
    let each = Duration::from_millis(number("RINGLOG_FUZZ_SECONDS", 60) * 1000 / chosen.len() as u64);
    for target in chosen {
        for_a_while(target, seed, each);
    }
}

fn for_a_while(target: &'static Target, seed: u64, time: Duration) {
    const ALL_BITS: [fn(u8, usize) -> u8; 12] = [
        |was, _| was ^ 1,
        |was, _| was ^ 2,
        |was, _| was ^ 4,
        |was, _| was ^ 8,
        |was, _| was ^ 16,
        |was, _| was ^ 32,
        |was, _| was ^ 64,
        |was, _| was ^ 128,
        |_, _| 0,
        |_, _| 0xff,
        |_, _| b'"',
        |_, _| b'\n',
    ];
    let begun = Instant::now();
    let mut run = Run::new(target, seed);
    run.watch = Some(Watch::new(target, seed));
    let swept = run.sweep(usize::MAX, &ALL_BITS, || begun.elapsed() > time / 2);
    let extent = if swept == Ok(true) { "every byte" } else { "not every byte" };
    let mut outcome = swept.map(|_| ());
    while outcome.is_ok() && begun.elapsed() < time {
        outcome = run.random(100);
    }
    println!(
        "{}: {extent} of golden inputs, {} inputs, {} outcomes, {} inputs to build on, {} s",
        target.name,
        run.input_count,
        run.seen.len(),
        run.corpus.len(),
        begun.elapsed().as_secs()
    );
    if let Err(input) = outcome {
        // Panics are what is looked for now.
        std::panic::set_hook(Box::new(|_| {}));
        let input = shortened(target, &input);
        let _ = std::panic::take_hook();
        fail(target, seed, &input);
    }
}

fn fails(target: &Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.checker)()(input))).is_err()
}

/// An input that fails alone, and of which no part can be left out. What fails only behind other inputs stays as it is.
pub fn shortened(target: &Target, input: &[u8]) -> Vec<u8> {
    let mut input = input.to_vec();
    if !fails(target, &input) {
        return input;
    }
    let mut part = input.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < input.len() {
            let without = [&input[..at], &input[input.len().min(at + part)..]].concat();
            if fails(target, &without) {
                input = without;
            } else {
                at += part;
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    input
}

/// Leaves the input in a file, and says how to run it again.
fn fail(target: &Target, seed: u64, input: &[u8]) -> ! {
    let path = leave_behind(target, input);
    let path = path.display();
    if fails(target, input) {
        panic!("{} fails: scripts/fuzz.sh --input {path} {}", target.name, target.name);
    }
    panic!(
        "{} fails behind other inputs (the last is {path}): scripts/fuzz.sh --seed {seed} 600 {}",
        target.name, target.name
    );
}

fn leave_behind(target: &Target, input: &[u8]) -> PathBuf {
    let folder = std::env::var_os("RINGLOG_FUZZ_FOLDER").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let path = PathBuf::from(folder).join(format!("fuzz-{}-{:016x}", target.name, mark(input)));
    std::fs::write(&path, input).unwrap();
    path
}

/// Ends the process when an input takes too long: no panic comes of a hang.
struct Watch {
    current: Arc<Mutex<Current>>,
}

/// When an input began, and which it is.
type Current = Option<(Instant, Vec<u8>)>;

impl Watch {
    fn new(target: &'static Target, seed: u64) -> Watch {
        let current = Arc::new(Mutex::new(Current::None));
        let watched = Arc::downgrade(&current);
        std::thread::spawn(move || {
            while let Some(current) = watched.upgrade() {
                if let Some((begun, input)) = &*current.lock().unwrap()
                    && begun.elapsed() > INPUT_WITHIN
                {
                    let path = leave_behind(target, input);
                    eprintln!(
                        "{} hangs (seed {seed}): scripts/fuzz.sh --input {} {}",
                        target.name,
                        path.display(),
                        target.name
                    );
                    std::process::exit(1);
                }
                drop(current);
                std::thread::park_timeout(Duration::from_secs(1));
            }
        });
        Watch { current }
    }

    fn begin(&self, input: &[u8]) {
        *self.current.lock().unwrap() = Some((Instant::now(), input.to_vec()));
    }

    fn end(&self) {
        *self.current.lock().unwrap() = None;
    }
}
