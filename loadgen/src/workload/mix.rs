//! The mix: which kinds of requests there are, and which one is next.

use crate::corpus::Rng;
use crate::failure::Failure;

/// Batches in a mix, when nobody says how large.
const MIXED_BATCH_EVENTS: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    Newest,
    ByType,
    ByEntity,
    Window,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    Single,
    Batch(Vec<usize>),
    Lines(Vec<usize>),
    Query(Query),
    Raw,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub name: &'static str,
    pub shape: Shape,
    pub weight: f64,
}

impl Operation {
    pub fn carries_events(&self) -> bool {
        matches!(self.shape, Shape::Single | Shape::Batch(_) | Shape::Lines(_))
    }
}

/// The kinds of requests of a run, in the order of the command line, and how often each.
#[derive(Debug, Clone)]
pub struct Mix {
    pub operations: Vec<Operation>,
    /// The first kind whose bound lies above a random number is chosen.
    bounds: Vec<u64>,
}

impl Mix {
    fn new(operations: Vec<Operation>) -> Self {
        let total: f64 = operations.iter().map(|operation| operation.weight).sum();
        let mut sum = 0.0;
        let mut bounds: Vec<u64> = Vec::new();
        for operation in &operations {
            sum += operation.weight;
            bounds.push((sum / total * u64::MAX as f64) as u64);
        }
        // Whatever rounding did: some kind is always chosen.
        if let Some(last) = bounds.last_mut() {
            *last = u64::MAX;
        }
        Self { operations, bounds }
    }

    pub fn only(name: &'static str, shape: Shape) -> Self {
        Self::new(vec![Operation { name, shape, weight: 1.0 }])
    }

    /// Events alone: each of `sizes` as often as it is named.
    pub fn of_events(sizes: &[usize], always_batch: bool) -> Self {
        let (singles, batches): (Vec<usize>, Vec<usize>) = sizes.iter().partition(|&&size| size == 1 && !always_batch);
        let mut operations = Vec::new();
        if !singles.is_empty() {
            operations.push(Operation { name: "single", shape: Shape::Single, weight: singles.len() as f64 });
        }
        if !batches.is_empty() {
            let weight = batches.len() as f64;
            operations.push(Operation { name: "batch", shape: Shape::Batch(batches), weight });
        }
        Self::new(operations)
    }

    /// `single=70,batch=20,newest=5,by-entity=5`; a name alone has the weight 1.
    pub fn parse(text: &str, sizes: &[usize]) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::Usage(format!("--mix {text}: {why}"));
        let sizes = if sizes.is_empty() { vec![MIXED_BATCH_EVENTS] } else { sizes.to_vec() };
        let mut operations: Vec<Operation> = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let weight: f64 = match weight.trim().parse() {
                Ok(weight) if 0.0 < weight && weight <= 1e9 => weight,
                _ => return Err(wrong(format!("the weight of {name} must be a number above 0"))),
            };
            let (name, shape) = match name.trim() {
                "single" => ("single", Shape::Single),
                "batch" => ("batch", Shape::Batch(sizes.clone())),
                "lines" => ("lines", Shape::Lines(sizes.clone())),
                "newest" => ("newest", Shape::Query(Query::Newest)),
                "by-type" => ("by-type", Shape::Query(Query::ByType)),
                "by-entity" => ("by-entity", Shape::Query(Query::ByEntity)),
                "window" => ("window", Shape::Query(Query::Window)),
                other => {
                    return Err(wrong(format!(
                        "there is no {other:?}; known are single, batch, lines, newest, by-type, by-entity and window"
                    )));
                }
            };
            if operations.iter().any(|known| known.name == name) {
                return Err(wrong(format!("{name} is named twice")));
            }
            operations.push(Operation { name, shape, weight });
        }
        Ok(Self::new(operations))
    }

    /// The next kind. One kind alone costs no random number.
    pub fn draw(&self, rng: &mut Rng) -> usize {
        if self.bounds.len() < 2 {
            return 0;
        }
        let random = rng.next();
        self.bounds.iter().position(|bound| random <= *bound).unwrap_or_default()
    }

    /// Whether there are requests that are not counted in events.
    pub fn has_queries(&self) -> bool {
        self.operations.iter().any(|operation| matches!(operation.shape, Shape::Query(_)))
    }

    /// Events of one request, on average; `raw_events` for a raw one.
    pub fn events_per_request(&self, raw_events: u32) -> f64 {
        let mean = |sizes: &[usize]| sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
        let total: f64 = self.operations.iter().map(|operation| operation.weight).sum();
        let events = self.operations.iter().map(|operation| {
            operation.weight
                * match &operation.shape {
                    Shape::Single => 1.0,
                    Shape::Batch(sizes) | Shape::Lines(sizes) => mean(sizes),
                    Shape::Query(_) => 0.0,
                    Shape::Raw => f64::from(raw_events),
                }
        });
        events.sum::<f64>() / total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_drawn_by_their_weights() {
        let mix = Mix::parse("single=70,batch=20,newest=5,by-entity=5", &[50]).unwrap();
        let mut counts = [0_usize; 4];
        let mut rng = Rng::new(9);
        for _ in 0..100_000 {
            counts[mix.draw(&mut rng)] += 1;
        }
        for (count, expected) in counts.into_iter().zip([70_000, 20_000, 5_000, 5_000]) {
            assert!(count.abs_diff(expected) < 600, "{counts:?}");
        }
        assert_eq!(mix.events_per_request(1), 0.7 + 0.2 * 50.0);
        assert!(mix.has_queries());
    }

    #[test]
    fn batch_sizes_make_a_mix_of_their_own() {
        let shapes = |sizes: &[usize], always_batch| {
            let operations = Mix::of_events(sizes, always_batch).operations;
            operations.into_iter().map(|operation| (operation.shape, operation.weight)).collect::<Vec<_>>()
        };
        assert_eq!(shapes(&[1], false), [(Shape::Single, 1.0)]);
        assert_eq!(shapes(&[1], true), [(Shape::Batch(vec![1]), 1.0)]);
        assert_eq!(shapes(&[5, 1, 10], false), [(Shape::Single, 1.0), (Shape::Batch(vec![5, 10]), 2.0)]);
        assert_eq!(Mix::of_events(&[1, 10], false).events_per_request(1), 5.5);
    }

    #[test]
    fn a_mix_that_makes_no_sense_is_refused() {
        for text in ["", "single=0", "single=x", "unknown=1", "single=1,single=2", "single=-1", "single=1,"] {
            assert!(matches!(Mix::parse(text, &[]), Err(Failure::Usage(_))), "{text}");
        }
        let error = Mix::parse("by-user=1", &[]).unwrap_err().to_string();
        assert!(error.contains("by-user") && error.contains("by-entity"), "{error}");
    }
}
