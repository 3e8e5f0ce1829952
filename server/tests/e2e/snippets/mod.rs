//! What the documentation shows of the Rust clients, compiled and run as it stands there.

pub mod allsource;
pub mod tell;

/// A snippet that is changed in one place has to be changed in the other.
pub fn assert_documented(snippet: &str) {
    let page = include_str!("../../../../docs/sources.md");
    assert!(page.contains(&format!("```rust\n{snippet}```\n")), "docs/sources.md does not have:\n{snippet}");
}
