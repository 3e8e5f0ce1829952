//! What was found: counts, a few examples of each kind for people, and a line of JSON for every single one.

use crate::corpus::Seq;
use crate::failure::Failure;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Examples that are printed per kind of trouble.
const EXAMPLES_MAX: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Acknowledged, and not there.
    Lost,
    /// There more than once.
    Duplicated,
    /// Out of order: within its request, its entity, or before what was acknowledged when it was sent.
    Reordered,
    /// There, but not as it was sent or acknowledged.
    Changed,
    /// There, though nobody sent it, or though it was refused.
    Invented,
    /// There, in another tenant.
    Leaked,
    /// A part of a request whose outcome is unknown is there.
    Torn,
    /// Versions of an entity that no event has.
    Skipped,
}

impl Trouble {
    pub const ALL: [Self; 8] = [
        Self::Lost,
        Self::Duplicated,
        Self::Reordered,
        Self::Changed,
        Self::Invented,
        Self::Leaked,
        Self::Torn,
        Self::Skipped,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Reordered => "reordered",
            Self::Changed => "changed",
            Self::Invented => "invented",
            Self::Leaked => "leaked",
            Self::Torn => "torn",
            Self::Skipped => "skipped",
        }
    }
}

/// One thing that is wrong. Fields that the finding has nothing to say of are left out of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: Trouble,
    pub tenant: String,
    /// In the tenant's feed, oldest first, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub seq: Option<Seq>,
    pub what: String,
}

fn as_text<S: Serializer>(seq: &Option<Seq>, serializer: S) -> Result<S::Ok, S::Error> {
    match seq {
        Some(seq) => serializer.collect_str(seq),
        None => serializer.serialize_none(),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tenant)?;
        if let Some(position) = self.position {
            write!(f, " at {position}")?;
        }
        if let Some(id) = &self.id {
            write!(f, " id {id}")?;
        }
        if let Some(seq) = self.seq {
            write!(f, " seq {seq}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Takes findings as they are made.
#[derive(Default)]
pub struct Findings {
    counts: BTreeMap<Trouble, u64>,
    examples: BTreeMap<&'static str, Vec<Finding>>,
    list: Option<BufWriter<File>>,
    list_error: Option<std::io::Error>,
}

impl Findings {
    /// With `list`, every finding goes there too.
    pub fn new(list: Option<&Path>) -> Result<Self, Failure> {
        let list = match list {
            Some(path) => Some(BufWriter::new(File::create(path).map_err(Failure::io(path.display()))?)),
            None => None,
        };
        Ok(Self { list, ..Self::default() })
    }

    pub fn note(&mut self, finding: Finding) {
        *self.counts.entry(finding.kind).or_default() += 1;
        if let Some(list) = &mut self.list
            && let Err(error) = write_line(list, &finding)
        {
            self.list_error = Some(error);
            self.list = None;
        }
        let examples = self.examples.entry(finding.kind.name()).or_default();
        if examples.len() < EXAMPLES_MAX {
            examples.push(finding);
        }
    }

    /// Gives a verdict its counts and examples; fails when the list could not be written.
    pub fn close_into(mut self, verdict: &mut Verdict) -> Result<(), Failure> {
        if let Some(list) = &mut self.list
            && let Err(error) = list.flush()
        {
            self.list_error = Some(error);
        }
        if let Some(error) = self.list_error {
            return Err(Failure::io("the list of findings")(error));
        }
        let count = |kind: Trouble| self.counts.get(&kind).copied().unwrap_or_default();
        verdict.trouble = Trouble::ALL.iter().map(|&kind| (kind.name(), count(kind))).collect();
        verdict.examples = self.examples;
        Ok(())
    }
}

fn write_line(list: &mut impl Write, finding: &Finding) -> std::io::Result<()> {
    serde_json::to_writer(&mut *list, finding)?;
    list.write_all(b"\n")
}

#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    pub tenants: usize,
    pub runs: u16,
    pub requests_sent: u64,
    pub events_sent: u64,
    pub events_acknowledged: u64,
    pub events_refused: u64,
    /// Outcome unknown to the client: the two below together.
    pub events_unknown: u64,
    /// Outcome unknown to the client, and stored.
    pub unknown_present: u64,
    /// Outcome unknown to the client, and not stored.
    pub unknown_absent: u64,
    pub events_read: u64,
    pub ledger_torn_bytes: u64,
    pub trouble: BTreeMap<&'static str, u64>,
    pub examples: BTreeMap<&'static str, Vec<Finding>>,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.count_of_trouble() == 0
    }

    pub fn count_of_trouble(&self) -> u64 {
        self.trouble.values().sum()
    }

    /// The table for people.
    pub fn text(&self) -> String {
        use fmt::Write;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<16} {value}");
        };
        let verdict = if self.is_good() { "OK".to_owned() } else { format!("FAILED: {}", self.count_of_trouble()) };
        line("verdict", verdict);
        line("tenants, runs", format!("{}, {}", self.tenants, self.runs));
        line("sent", format!("{} events in {} requests", self.events_sent, self.requests_sent));
        line("acknowledged", self.events_acknowledged.to_string());
        line("refused", self.events_refused.to_string());
        let (present, absent) = (self.unknown_present, self.unknown_absent);
        line("unknown", format!("{} ({present} stored, {absent} not)", self.events_unknown));
        line("read back", self.events_read.to_string());
        if 0 < self.ledger_torn_bytes {
            line("ledger", format!("{} bytes of a killed writer were left out", self.ledger_torn_bytes));
        }
        for trouble in Trouble::ALL {
            let count = self.trouble.get(trouble.name()).copied().unwrap_or_default();
            line(trouble.name(), count.to_string());
            let examples = self.examples.get(trouble.name()).map(Vec::as_slice).unwrap_or_default();
            for example in examples {
                line("", example.to_string());
            }
            if (examples.len() as u64) < count {
                line("", format!("and {} more", count - examples.len() as u64));
            }
        }
        text
    }
}
