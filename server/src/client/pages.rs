//! Lists that come in pages, one after the other as they are printed: none is kept.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::client::api::{Api, Target};
use crate::client::failure::Failure;
use crate::client::output::{Column, Out, shown_json, table};
use crate::exit::Exit;

#[derive(Debug, Default, Clone, PartialEq, Eq, Args)]
pub struct Pages {
    /// How many a page has
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u32>,
    /// Go on behind an earlier page: its `next_cursor`
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// Go on until there are no more
    #[arg(long)]
    pub follow_pages: bool,
}

/// Prints the list `member` of what is at `target`.
pub fn list(
    api: &Api,
    target: &Target,
    pages: &Pages,
    (member, columns): (&str, &[Column]),
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let limit = pages.limit.map(|limit| limit.to_string());
    let mut cursor = pages.cursor.clone();
    let mut count = 0_u64;
    let mut is_first = true;
    loop {
        let target = target.clone().query("limit", limit.as_deref()).query("cursor", cursor.as_deref());
        let answer = api.get(&target)?;
        let page: BTreeMap<String, &RawValue> = answer.read_as()?;
        let next = next_of(&page)?;
        if !pages.follow_pages {
            out.answer(&answer, |value| table(columns, value[member].as_array().into_iter().flatten()))?;
            if let Some(next) = next.filter(|_| !out.is_json()) {
                out.note(&format!("there is more: --cursor {next}, or --follow-pages"));
            }
            return Ok(());
        }
        let items = page.get(member).map_or("[]", |items| items.get());
        if out.is_json() {
            if is_first {
                out.raw(&format!("{{\"{member}\":["))?;
            }
            put_json(items, &mut count, out)?;
        } else {
            let items: Vec<Value> = serde_json::from_str(items).unwrap_or_default();
            if is_first || !items.is_empty() {
                out.raw(&table(columns, &items))?;
            }
        }
        is_first = false;
        match next {
            Some(next) if cursor.as_ref() == Some(&next) => {
                return Err(Failure::new(Exit::Other, "the server gave the same page again"));
            }
            Some(next) => cursor = Some(next),
            None if out.is_json() => return out.raw(&format!("],\"count\":{count},\"has_more\":false}}\n")),
            None => return Ok(()),
        }
    }
}

/// Where the list goes on, if it does.
fn next_of(page: &BTreeMap<String, &RawValue>) -> Result<Option<String>, Failure> {
    let has_more = page.get("has_more").is_some_and(|value| value.get() == "true");
    let next = page.get("next_cursor").and_then(|value| serde_json::from_str::<String>(value.get()).ok());
    match (has_more, next) {
        (false, _) => Ok(None),
        (true, Some(next)) => Ok(Some(next)),
        (true, None) => Err(Failure::new(Exit::Other, "there is more, and the server does not say where")),
    }
}

/// The items of one page, behind those of the pages before.
fn put_json(items: &str, count: &mut u64, out: &mut Out<'_>) -> Result<(), Failure> {
    let items: Vec<&RawValue> = serde_json::from_str(items)
        .map_err(|_| Failure::new(Exit::Other, "the answer has no list where one belongs"))?;
    for item in items {
        let comma = if *count == 0 { "" } else { "," };
        out.raw(&format!("{comma}{}", shown_json(item.get())))?;
        *count += 1;
    }
    Ok(())
}
