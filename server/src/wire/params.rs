//! The query string of `GET /api/v1/events/query`: from bytes to a `QuerySpec`, a payload filter and a cursor.
//!
//! Owns percent-decoding, the names and rules of the parameters, the cursor's token and what a payload filter means.
//! Must never: guess. A parameter that cannot be read is a refusal that names it; only unknown ones are ignored.
//!
//! ```text
//! cursor, base64url without padding:
//! 0         1       2         10         18      26
//! | version | order | filters | position | tag   |      filters and tag: 8 bytes of HMAC-SHA256 each
//! ```

use std::borrow::Cow;
use std::fmt;

use ring::hmac;
use ringlog_engine::ids::{Micros, Position, Tenant};
use ringlog_engine::query::{Order, QuerySpec, TypeFilter};
use subtle::ConstantTimeEq;

use super::json::{JsonError, Kind, Scanner, Value, as_text};
use super::json_simd::Window;
use super::time::{TimeError, parse_moment};
use crate::limits::PAGE_ITEMS_DEFAULT;

/// Events of one answer: the default, and what a larger `limit` becomes. The first seed's clients count on both.
pub const QUERY_LIMIT_MAX: usize = 10_000;
/// Prefixes in `exclude_event_type_prefix`. A guess: each costs a comparison per event.
pub const EXCLUDE_PREFIXES_MAX: usize = 8;
/// Keys of a payload filter: one bit of a word each while a payload is compared.
pub const FILTER_KEYS_MAX: usize = u64::BITS as usize;
/// What an error text quotes of a client's string at most, in characters.
const QUOTE_CHARS_MAX: usize = 64;

/// A question as it came in. Until `resume`, `spec` does not know of the cursor.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryParams {
    pub spec: QuerySpec,
    pub payload_filter: Option<PayloadFilter>,
    /// The tenant that was named; it has to be compared with the credential's.
    pub tenant_id: Option<String>,
    /// The token that was sent.
    pub cursor: Option<String>,
}

/// Which parameter was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamError {
    pub name: String,
    pub fault: ParamFault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParamFault {
    Encoding(EncodingError),
    Duplicate,
    /// With `strict=1` only.
    Unknown,
    /// `order` and `sort`, or `cursor` and `offset`.
    Conflict {
        other: &'static str,
    },
    Order {
        found: String,
    },
    Number {
        found: String,
    },
    Flag {
        found: String,
    },
    Time {
        found: String,
        error: TimeError,
    },
    Filter(FilterError),
    TooManyPrefixes,
    Cursor(CursorError),
}

/// Why a part of a URL cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodingError {
    /// A percent sign without two hexadecimal digits.
    Percent,
    Nul,
    Utf8,
}

/// Why text is no payload filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterError {
    Json(JsonError),
    NotAnObject,
    TooManyKeys,
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.fault {
            ParamFault::Encoding(EncodingError::Percent) => {
                write!(f, "invalid '{name}' parameter: '%' must be followed by two hexadecimal digits")
            }
            ParamFault::Encoding(EncodingError::Nul) => write!(f, "invalid '{name}' parameter: %00 is not accepted"),
            ParamFault::Encoding(EncodingError::Utf8) => write!(f, "invalid '{name}' parameter: not UTF-8"),
            ParamFault::Duplicate => write!(f, "'{name}' is given twice; send it once"),
            ParamFault::Unknown => write!(f, "unknown parameter '{name}'; remove it, or leave out strict=1"),
            ParamFault::Conflict { other } => write!(f, "'{name}' cannot be combined with '{other}'; send one of them"),
            ParamFault::Order { found } => write!(f, "invalid '{name}' value '{found}': expected 'asc' or 'desc'"),
            ParamFault::Number { found } => {
                write!(f, "invalid '{name}' value '{found}': expected a whole number from 0")
            }
            ParamFault::Flag { found } => write!(f, "invalid '{name}' value '{found}': expected '0' or '1'"),
            ParamFault::Time { found, error } => write!(f, "invalid '{name}' value '{found}': {error}"),
            ParamFault::Filter(FilterError::Json(error)) => write!(f, "invalid '{name}': not JSON, {error}"),
            ParamFault::Filter(FilterError::NotAnObject) => {
                write!(f, "invalid '{name}': expected a JSON object such as {{\"status\":\"paid\"}}")
            }
            ParamFault::Filter(FilterError::TooManyKeys) => {
                write!(f, "invalid '{name}': more than {FILTER_KEYS_MAX} keys")
            }
            ParamFault::TooManyPrefixes => write!(f, "invalid '{name}': more than {EXCLUDE_PREFIXES_MAX} prefixes"),
            ParamFault::Cursor(CursorError::InvalidCursor) => {
                write!(f, "invalid '{name}': not a cursor of this server; start again without it")
            }
            ParamFault::Cursor(CursorError::CursorMismatch) => {
                write!(
                    f,
                    "invalid '{name}': it belongs to a query with other filters, order or tenant; send those again"
                )
            }
        }
    }
}

impl std::error::Error for ParamError {}

impl QueryParams {
    /// Reads the part of the URL behind the question mark. Unknown parameters are ignored unless `strict=1` is among them.
    pub fn parse(query: &[u8], tenant: Tenant) -> Result<QueryParams, ParamError> {
        QueryParams::parse_by(&NAMES, query)?.into_params(tenant, Order::default(), QUERY_LIMIT_MAX)
    }

    /// The same for a list of rejects, whose type is the reason and whose entity the source: newest first, a page at a time.
    pub fn parse_for_rejects(query: &[u8], tenant: Tenant) -> Result<QueryParams, ParamError> {
        QueryParams::parse_by(&REJECT_NAMES, query)?.into_params(tenant, Order::Descending, PAGE_ITEMS_DEFAULT)
    }

    fn parse_by<'a>(names: &[&'static str], query: &'a [u8]) -> Result<Found<'a>, ParamError> {
        let mut found = Found::default();
        for pair in pairs(query) {
            let (name, value) = pair?;
            let Some(index) = names.iter().position(|known| !known.is_empty() && *known == name) else {
                found.unknown.get_or_insert_with(|| quote(&name));
                continue;
            };
            let place = &mut found.values[index];
            if place.is_some() {
                return Err(refuse(names[index], ParamFault::Duplicate));
            }
            *place = Some(value);
        }
        if let (true, Some(name)) = (found.flag("strict")?, found.unknown.take()) {
            return Err(ParamError { name, fault: ParamFault::Unknown });
        }
        Ok(found)
    }

    /// Takes the cursor that was sent, if one was, into `spec.after`.
    pub fn resume(&mut self, key: &CursorKey) -> Result<(), ParamError> {
        if let Some(token) = &self.cursor {
            let filters = self.filters(key);
            let cursor =
                Cursor::decode(token, key, filters)
                    .and_then(|cursor| {
                        if cursor.order == self.spec.order { Ok(cursor) } else { Err(CursorError::CursorMismatch) }
                    })
                    .map_err(|error| refuse("cursor", ParamFault::Cursor(error)))?;
            self.spec.after = Some(cursor.position);
        }
        Ok(())
    }

    /// The token with which this question goes on behind `position`.
    pub fn cursor_after(&self, key: &CursorKey, position: Position) -> String {
        Cursor { order: self.spec.order, position }.encode(key, self.filters(key))
    }

    /// What must be the same for a cursor to go on: the tenant and every filter, but neither limit nor offset.
    fn filters(&self, key: &CursorKey) -> FilterHash {
        let spec = &self.spec;
        let mut text = Vec::with_capacity(256);
        text.extend_from_slice(&spec.tenant.0.to_le_bytes());
        let (mark, event_type) = match &spec.event_type {
            None => (0, ""),
            Some(TypeFilter::Exact(name)) => (1, name.as_str()),
            Some(TypeFilter::Prefix(prefix)) => (2, prefix.as_str()),
        };
        put_part(&mut text, mark, event_type);
        put_part(&mut text, u8::from(spec.entity.is_some()), spec.entity.as_deref().unwrap_or_default());
        let mut excluded: Vec<&str> = spec.exclude_type_prefixes.iter().map(String::as_str).collect();
        excluded.sort_unstable();
        excluded.dedup();
        for prefix in excluded {
            put_part(&mut text, 3, prefix);
        }
        for bound in [spec.since, spec.until] {
            text.push(u8::from(bound.is_some()));
            text.extend_from_slice(&bound.unwrap_or_default().0.to_le_bytes());
        }
        let filter = self.payload_filter.as_ref();
        put_part(&mut text, u8::from(filter.is_some()), filter.map_or("", |filter| &filter.text));
        FilterHash(key.short_tag(FILTERS_DOMAIN, &text))
    }
}

fn put_part(out: &mut Vec<u8>, mark: u8, text: &str) {
    out.push(mark);
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Every parameter that means something here.
const NAMES: [&str; 15] = [
    "tenant_id",
    "entity_id",
    "event_type",
    "event_type_prefix",
    "exclude_event_type_prefix",
    "since",
    "until",
    "as_of",
    "payload_filter",
    "order",
    "sort",
    "limit",
    "offset",
    "cursor",
    "strict",
];

/// What they are called in a list of rejects; those without a name there are not there.
const REJECT_NAMES: [&str; NAMES.len()] = [
    "tenant_id",
    "source",
    "reason",
    "",
    "",
    "since",
    "until",
    "",
    "",
    "order",
    "sort",
    "limit",
    "",
    "cursor",
    "strict",
];

/// The parameters by their places in `NAMES`.
#[derive(Debug, Default)]
struct Found<'a> {
    values: [Option<Cow<'a, str>>; NAMES.len()],
    unknown: Option<String>,
}

impl Found<'_> {
    fn into_params(
        mut self,
        tenant: Tenant,
        usual_order: Order,
        usual_limit: usize,
    ) -> Result<QueryParams, ParamError> {
        let order = match (self.order("order")?, self.order("sort")?) {
            (Some(_), Some(_)) => return Err(refuse("sort", ParamFault::Conflict { other: "order" })),
            (order, sort) => order.or(sort).unwrap_or(usual_order),
        };
        let offset = self.number("offset")?;
        // More than any tenant holds, and still safe to add to.
        if offset.is_some_and(|offset| offset > i64::MAX as u64) {
            return Err(refuse(
                "offset",
                ParamFault::Number { found: quote(&self.text("offset").unwrap_or_default()) },
            ));
        }
        let cursor = self.text("cursor");
        if cursor.is_some() && offset.is_some() {
            return Err(refuse("cursor", ParamFault::Conflict { other: "offset" }));
        }
        let limit = self.number("limit")?.map_or(usual_limit, |limit| limit.min(QUERY_LIMIT_MAX as u64) as usize);
        let since = self.time("since")?;
        let until = match (self.time("until")?, self.time("as_of")?) {
            (Some(until), Some(as_of)) => Some(until.min(as_of)),
            (until, as_of) => until.or(as_of),
        };
        let mut exclude_type_prefixes = self.excluded()?;
        let event_type = match (self.text("event_type"), self.text("event_type_prefix")) {
            (Some(exact), Some(prefix)) => {
                // Both must hold. When they cannot, the type excludes itself, and nothing matches.
                if !exact.starts_with(&prefix) {
                    exclude_type_prefixes.push(exact.clone());
                }
                Some(TypeFilter::Exact(exact))
            }
            (Some(exact), None) => Some(TypeFilter::Exact(exact)),
            (None, prefix) => prefix.filter(|prefix| !prefix.is_empty()).map(TypeFilter::Prefix),
        };
        let payload_filter = match self.text("payload_filter") {
            Some(text) => {
                Some(PayloadFilter::parse(&text).map_err(|error| refuse("payload_filter", ParamFault::Filter(error)))?)
            }
            None => None,
        };
        let spec = QuerySpec {
            event_type,
            exclude_type_prefixes,
            entity: self.text("entity_id"),
            since,
            until,
            order,
            offset: offset.unwrap_or_default(),
            ..QuerySpec::all(tenant, limit)
        };
        Ok(QueryParams { spec, payload_filter, tenant_id: self.text("tenant_id"), cursor })
    }

    fn get(&self, name: &str) -> Option<&str> {
        let index = NAMES.iter().position(|known| *known == name)?;
        self.values[index].as_deref()
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    fn order(&self, name: &'static str) -> Result<Option<Order>, ParamError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) if value.eq_ignore_ascii_case("asc") => Ok(Some(Order::Ascending)),
            Some(value) if value.eq_ignore_ascii_case("desc") => Ok(Some(Order::Descending)),
            Some(value) => Err(refuse(name, ParamFault::Order { found: quote(value) })),
        }
    }

    /// Digits only; more than fit are the largest number.
    fn number(&self, name: &'static str) -> Result<Option<u64>, ParamError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse(name, ParamFault::Number { found: quote(value) }));
        }
        Ok(Some(value.parse().unwrap_or(u64::MAX)))
    }

    fn flag(&self, name: &'static str) -> Result<bool, ParamError> {
        match self.get(name) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(value) => Err(refuse(name, ParamFault::Flag { found: quote(value) })),
        }
    }

    fn time(&self, name: &'static str) -> Result<Option<Micros>, ParamError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        parse_moment(value).map(Some).map_err(|error| refuse(name, ParamFault::Time { found: quote(value), error }))
    }

    /// An empty prefix would exclude everything, so a stray comma is passed over.
    fn excluded(&self) -> Result<Vec<String>, ParamError> {
        const NAME: &str = "exclude_event_type_prefix";
        let list = self.get(NAME).unwrap_or_default();
        let mut prefixes = Vec::new();
        for prefix in list.split(',').filter(|prefix| !prefix.is_empty()) {
            if prefixes.len() == EXCLUDE_PREFIXES_MAX {
                return Err(refuse(NAME, ParamFault::TooManyPrefixes));
            }
            prefixes.push(prefix.to_owned());
        }
        Ok(prefixes)
    }
}

/// The decoded names and values of a query string, in their order. A name without `=` has an empty value.
pub fn pairs(query: &[u8]) -> impl Iterator<Item = Result<(Cow<'_, str>, Cow<'_, str>), ParamError>> {
    query.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = match pair.iter().position(|&byte| byte == b'=') {
            Some(place) => (&pair[..place], &pair[place + 1..]),
            None => (pair, &b""[..]),
        };
        let encoding =
            |error| ParamError { name: quote(&String::from_utf8_lossy(name)), fault: ParamFault::Encoding(error) };
        Ok((decode(name, Plus::Space).map_err(encoding)?, decode(value, Plus::Space).map_err(encoding)?))
    })
}

/// What a plus stands for: a space in a query string, itself in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plus {
    Space,
    Itself,
}

/// Undoes percent-encoding. NUL is refused, encoded or not.
pub fn decode(raw: &[u8], plus: Plus) -> Result<Cow<'_, str>, EncodingError> {
    if raw.contains(&0) {
        return Err(EncodingError::Nul);
    }
    if !raw.iter().any(|&byte| byte == b'%' || (byte == b'+' && plus == Plus::Space)) {
        return std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| EncodingError::Utf8);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [byte, behind @ ..] = rest {
        rest = behind;
        match byte {
            b'%' => {
                let [high, low, behind @ ..] = rest else { return Err(EncodingError::Percent) };
                rest = behind;
                let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(EncodingError::Percent);
                match (digit(*high)? << 4 | digit(*low)?) as u8 {
                    0 => return Err(EncodingError::Nul),
                    decoded => out.push(decoded),
                }
            }
            b'+' if plus == Plus::Space => out.push(b' '),
            other => out.push(*other),
        }
    }
    String::from_utf8(out).map(Cow::Owned).map_err(|_| EncodingError::Utf8)
}

fn refuse(name: &str, fault: ParamFault) -> ParamError {
    ParamError { name: name.to_owned(), fault }
}

fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}

/// The secret under which cursors are made, so that only those of this server are taken.
#[derive(Debug, Clone)]
pub struct CursorKey(hmac::Key);

/// Eight keyed bytes that stand for a tenant and a set of filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterHash(pub [u8; 8]);

/// Where an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub order: Order,
    /// Of the last event that was given.
    pub position: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorError {
    /// Not a token of this server, or damaged.
    InvalidCursor,
    /// A token of this server, for other filters, another order or another tenant.
    CursorMismatch,
}

const CURSOR_VERSION: u8 = 1;
const CURSOR_BODY_BYTES: usize = 18;
const CURSOR_BYTES: usize = CURSOR_BODY_BYTES + 8;
/// One key, two uses: neither result can stand for the other.
const FILTERS_DOMAIN: u8 = 1;
const CURSOR_DOMAIN: u8 = 2;

impl CursorKey {
    pub fn new(secret: &[u8; 32]) -> CursorKey {
        CursorKey(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn short_tag(&self, domain: u8, text: &[u8]) -> [u8; 8] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[domain]);
        context.update(text);
        let tag = context.sign();
        let mut short = [0; 8];
        short.copy_from_slice(&tag.as_ref()[..8]);
        short
    }
}

impl Cursor {
    pub fn encode(&self, key: &CursorKey, filters: FilterHash) -> String {
        let mut bytes = [0; CURSOR_BYTES];
        bytes[0] = CURSOR_VERSION;
        bytes[1] = match self.order {
            Order::Ascending => 0,
            Order::Descending => 1,
        };
        bytes[2..10].copy_from_slice(&filters.0);
        bytes[10..18].copy_from_slice(&self.position.0.to_le_bytes());
        let tag = key.short_tag(CURSOR_DOMAIN, &bytes[..CURSOR_BODY_BYTES]);
        bytes[CURSOR_BODY_BYTES..].copy_from_slice(&tag);
        base64url(&bytes)
    }

    /// Believes nothing of the token before its tag was compared.
    pub fn decode(token: &str, key: &CursorKey, filters: FilterHash) -> Result<Cursor, CursorError> {
        let bytes: [u8; CURSOR_BYTES] = from_base64url(token).ok_or(CursorError::InvalidCursor)?;
        let (body, tag) = bytes.split_at(CURSOR_BODY_BYTES);
        if !bool::from(key.short_tag(CURSOR_DOMAIN, body).ct_eq(tag)) || body[0] != CURSOR_VERSION {
            return Err(CursorError::InvalidCursor);
        }
        if body[2..10] != filters.0 {
            return Err(CursorError::CursorMismatch);
        }
        let order = match body[1] {
            0 => Order::Ascending,
            1 => Order::Descending,
            _ => return Err(CursorError::InvalidCursor),
        };
        let position = body[10..18].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
        Ok(Cursor { order, position: Position(position) })
    }
}

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64url(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            out.push(char::from(BASE64URL[(word >> (18 - 6 * place)) as usize % 64]));
        }
    }
    out
}

/// Exactly `N` bytes, without padding, in the one spelling that `base64url` makes.
fn from_base64url<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != (N * 8).div_ceil(6) {
        return None;
    }
    let mut out = [0; N];
    let mut places = out.iter_mut();
    let (mut word, mut bits) = (0u32, 0);
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            *places.next()? = (word >> bits) as u8;
            word &= (1 << bits) - 1;
        }
    }
    (word == 0).then_some(out)
}

/// Keys that a payload must have, with the values they must have there.
///
/// - Values are equal as JSON: strings without their escapes, objects in any order, arrays in theirs.
/// - Numbers are equal as numbers: whole ones that fit 64 bits exactly, others as `f64`. What fits neither is equal to the
///   same digits only.
/// - Of a key that stands there twice the first counts, in the filter as in the payload.
#[derive(Debug, Clone, PartialEq)]
pub struct PayloadFilter {
    text: String,
    fields: Vec<(String, Json)>,
}

/// A value that others are compared with.
#[derive(Debug, Clone, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Json>),
    /// Sorted by key, without duplicates.
    Object(Vec<(String, Json)>),
}

#[derive(Debug, Clone)]
enum Number {
    /// Fits `i64` or `u64`.
    Whole(i128),
    /// Finite.
    Float(f64),
    Text(String),
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        match (self, other) {
            (Number::Whole(left), Number::Whole(right)) => left == right,
            (Number::Float(left), Number::Float(right)) => left == right,
            // Every whole number of 64 bits is far inside of i128, and the cast saturates beyond it.
            (Number::Whole(whole), Number::Float(float)) | (Number::Float(float), Number::Whole(whole)) => {
                float.fract() == 0.0 && *float as i128 == *whole
            }
            (Number::Text(left), Number::Text(right)) => left == right,
            _ => false,
        }
    }
}

impl Number {
    fn parse(text: &str) -> Number {
        let number = if text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
            text.parse().ok().filter(|float: &f64| float.is_finite()).map(Number::Float)
        } else {
            let fits = |whole: &i128| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(whole);
            text.parse().ok().filter(fits).map(Number::Whole)
        };
        number.unwrap_or_else(|| Number::Text(text.to_owned()))
    }
}

impl PayloadFilter {
    pub fn parse(text: &str) -> Result<PayloadFilter, FilterError> {
        let mut window = Window::default();
        let mut scanner = Scanner::new(text, &mut window);
        let json = build(&mut scanner, text).map_err(FilterError::Json)?;
        scanner.finish().map_err(FilterError::Json)?;
        let Json::Object(fields) = json else { return Err(FilterError::NotAnObject) };
        if fields.len() > FILTER_KEYS_MAX {
            return Err(FilterError::TooManyKeys);
        }
        Ok(PayloadFilter { text: text.to_owned(), fields })
    }

    /// Whether the payload has all keys with equal values at its top level. A payload that is no object, or no JSON, matches
    /// only the filter that asks for nothing.
    pub fn matches(&self, payload: &[u8]) -> bool {
        self.fields.is_empty() || self.find_all(payload).unwrap_or(false)
    }

    fn find_all(&self, payload: &[u8]) -> Result<bool, JsonError> {
        let payload = as_text(payload)?;
        let mut window = Window::default();
        let mut scanner = Scanner::new(payload, &mut window);
        let mut scratch = String::new();
        let mut missing = u64::MAX >> (FILTER_KEYS_MAX - self.fields.len());
        scanner.begin_object()?;
        while let Some(key) = scanner.next_key()? {
            let name = key.resolve(payload, &mut scratch);
            let asked = self.fields.iter().position(|(asked, _)| asked == name);
            let value = scanner.value()?;
            if let Some(index) = asked
                && missing & 1 << index != 0
            {
                if !equals(&self.fields[index].1, &value, payload)? {
                    return Ok(false);
                }
                missing ^= 1 << index;
                if missing == 0 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Compares without building anything, unless it is an array or object, or a string with escapes.
fn equals(wanted: &Json, value: &Value, payload: &str) -> Result<bool, JsonError> {
    let text = &payload[value.span()];
    match (wanted, value.kind) {
        (Json::Null, Kind::Null) => Ok(true),
        (Json::Bool(wanted), Kind::Bool) => Ok(*wanted == (text == "true")),
        (Json::String(wanted), Kind::String) if !value.is_escaped => Ok(wanted == &text[1..text.len() - 1]),
        (Json::Number(_), Kind::Number)
        | (Json::String(_), Kind::String)
        | (Json::Array(_), Kind::Array)
        | (Json::Object(_), Kind::Object) => {
            let mut window = Window::default();
            let mut scanner = Scanner::new(text, &mut window);
            Ok(*wanted == build(&mut scanner, text)?)
        }
        _ => Ok(false),
    }
}

/// The value that comes next. Goes as deep as the scanner allows, which is not deep.
fn build(scanner: &mut Scanner<'_>, body: &str) -> Result<Json, JsonError> {
    match scanner.peek() {
        b'{' => {
            scanner.begin_object()?;
            let mut fields = Vec::new();
            while let Some(key) = scanner.next_key()? {
                let mut scratch = String::new();
                let name = key.resolve(body, &mut scratch).to_owned();
                fields.push((name, build(scanner, body)?));
            }
            // Stable, so that the first of equal keys stays.
            fields.sort_by(|(left, _), (right, _)| left.cmp(right));
            fields.dedup_by(|(later, _), (earlier, _)| later == earlier);
            Ok(Json::Object(fields))
        }
        b'[' => {
            scanner.begin_array()?;
            let mut elements = Vec::new();
            while scanner.next_element()? {
                elements.push(build(scanner, body)?);
            }
            Ok(Json::Array(elements))
        }
        _ => {
            let value = scanner.value()?;
            let text = &body[value.span()];
            Ok(match value.kind {
                Kind::String => {
                    let mut scratch = String::new();
                    Json::String(value.text().resolve(body, &mut scratch).to_owned())
                }
                Kind::Bool => Json::Bool(text == "true"),
                Kind::Number => Json::Number(Number::parse(text)),
                _ => Json::Null,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: Tenant = Tenant(7);

    fn parse(query: &str) -> QueryParams {
        QueryParams::parse(query.as_bytes(), TENANT).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    fn refused(query: &str, text: &str) {
        let error = QueryParams::parse(query.as_bytes(), TENANT).unwrap_err();
        assert_eq!(error.to_string(), text, "{query}");
    }

    #[test]
    fn nothing_asked_is_everything_oldest_first() {
        for query in ["", "&", "&&", "sort_by=x", "before=1&after=2", "event_type_prefix="] {
            let params = parse(query);
            assert_eq!(params.spec, QuerySpec::all(TENANT, 10_000), "{query}");
            assert_eq!((params.payload_filter, params.tenant_id, params.cursor), (None, None, None));
        }
    }

    #[test]
    fn rejects_have_their_own_names_and_come_newest_first() {
        let parse = |query: &str| QueryParams::parse_for_rejects(query.as_bytes(), TENANT);
        let usual = QuerySpec { order: Order::Descending, ..QuerySpec::all(TENANT, PAGE_ITEMS_DEFAULT) };
        // What means nothing here is passed over, an empty name too.
        for query in ["", "=x&=y", "event_type=a&entity_id=b&payload_filter=x&offset=-1&as_of=x"] {
            assert_eq!(parse(query).unwrap().spec, usual, "{query}");
        }
        let spec = parse("reason=quota&source=tcp&order=asc&limit=7").unwrap().spec;
        let expected = QuerySpec {
            event_type: Some(TypeFilter::Exact("quota".into())),
            entity: Some("tcp".into()),
            ..QuerySpec::all(TENANT, 7)
        };
        assert_eq!(spec, expected);
        assert_eq!(parse("reason=a&reason=b").unwrap_err().to_string(), "'reason' is given twice; send it once");
        assert!(parse("event_type=a&strict=1").is_err());
    }

    #[test]
    fn every_parameter_arrives() {
        let params = parse(
            "tenant_id=acme&entity_id=order%2D7&event_type=order.paid&exclude_event_type_prefix=a.%2Cb.,,c&since=1970-01-01T00:00:00Z\
             &until=1970-01-01T01:00:02+01:00&payload_filter=%7B%22a%22%3A1%7D&order=DESC&limit=5&offset=3",
        );
        let expected = QuerySpec {
            event_type: Some(TypeFilter::Exact("order.paid".into())),
            exclude_type_prefixes: vec!["a.".into(), "b.".into(), "c".into()],
            entity: Some("order-7".into()),
            since: Some(Micros(0)),
            until: Some(Micros(2_000_000)),
            order: Order::Descending,
            offset: 3,
            ..QuerySpec::all(TENANT, 5)
        };
        assert_eq!(params.spec, expected);
        assert_eq!(params.tenant_id.as_deref(), Some("acme"));
        assert!(params.payload_filter.unwrap().matches(b"{\"a\":1}"));
        assert_eq!(parse("event_type_prefix=order.").spec.event_type, Some(TypeFilter::Prefix("order.".into())));
        assert_eq!(parse("sort=desc").spec.order, Order::Descending);
        assert_eq!(parse("order=Asc").spec.order, Order::Ascending);
        assert_eq!(parse("cursor=abc").cursor.as_deref(), Some("abc"));
        assert_eq!(parse("entity_id=a+b%2Bc%20%C3%A9").spec.entity.as_deref(), Some("a b+c \u{e9}"));
    }

    #[test]
    fn the_earlier_of_until_and_as_of_counts() {
        for (query, until) in
            [("as_of=5", 5_000), ("until=5&as_of=3", 3_000), ("until=3&as_of=5", 3_000), ("until=9", 9_000)]
        {
            assert_eq!(parse(query).spec.until, Some(Micros(until)), "{query}");
        }
    }

    #[test]
    fn an_exact_type_and_a_prefix_both_hold() {
        let both = parse("event_type=order.paid&event_type_prefix=order.").spec;
        assert_eq!(both.event_type, Some(TypeFilter::Exact("order.paid".into())));
        assert!(both.exclude_type_prefixes.is_empty());
        let neither = parse("event_type=order.paid&event_type_prefix=user.").spec;
        assert_eq!(neither.event_type, Some(TypeFilter::Exact("order.paid".into())));
        assert_eq!(neither.exclude_type_prefixes, ["order.paid"]);
    }

    #[test]
    fn limits_are_clamped_and_zero_stays_zero() {
        for (query, limit) in [
            ("limit=0", 0),
            ("limit=1", 1),
            ("limit=10000", 10_000),
            ("limit=10001", 10_000),
            ("limit=99999999999999999999999999", 10_000),
        ] {
            assert_eq!(parse(query).spec.limit, limit, "{query}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        refused("order=x", "invalid 'order' value 'x': expected 'asc' or 'desc'");
        refused("sort=up", "invalid 'sort' value 'up': expected 'asc' or 'desc'");
        refused("order=", "invalid 'order' value '': expected 'asc' or 'desc'");
        refused("order=asc&sort=asc", "'sort' cannot be combined with 'order'; send one of them");
        for value in ["-1", "x", "", "1.5", "1e3", "+5", "0x10", "%D9%A1"] {
            let shown = if value == "+5" {
                " 5"
            } else if value == "%D9%A1" {
                "\u{661}"
            } else {
                value
            };
            refused(
                &format!("limit={value}"),
                &format!("invalid 'limit' value '{shown}': expected a whole number from 0"),
            );
        }
        refused("offset=x", "invalid 'offset' value 'x': expected a whole number from 0");
        refused(
            "offset=18446744073709551615",
            "invalid 'offset' value '18446744073709551615': expected a whole number from 0",
        );
        refused(
            "since=soon",
            "invalid 'since' value 'soon': expected a time such as 2026-10-27T10:00:00Z or 1792922400000, wrong at byte 0",
        );
        refused(
            "until=2026-10-27T10:00:00",
            "invalid 'until' value '2026-10-27T10:00:00': the time has no offset; end it with Z or +02:00",
        );
        refused(
            "as_of=",
            "invalid 'as_of' value '': expected a time such as 2026-10-27T10:00:00Z or 1792922400000, wrong at byte 0",
        );
        refused("payload_filter=x", "invalid 'payload_filter': not JSON, expected a value at byte 0");
        refused(
            "payload_filter=",
            "invalid 'payload_filter': not JSON, expected a value at byte 0, where the body ends",
        );
        refused("payload_filter=[1]", "invalid 'payload_filter': expected a JSON object such as {\"status\":\"paid\"}");
        refused("limit=1&limit=1", "'limit' is given twice; send it once");
        refused("cursor=a&offset=0", "'cursor' cannot be combined with 'offset'; send one of them");
        refused(
            "exclude_event_type_prefix=a,b,c,d,e,f,g,h,i",
            "invalid 'exclude_event_type_prefix': more than 8 prefixes",
        );
        refused("strict=1&before=x", "unknown parameter 'before'; remove it, or leave out strict=1");
        refused("before=x&strict=true", "unknown parameter 'before'; remove it, or leave out strict=1");
        refused("strict=maybe", "invalid 'strict' value 'maybe': expected '0' or '1'");
        refused("entity_id=%", "invalid 'entity_id' parameter: '%' must be followed by two hexadecimal digits");
        refused("entity_id=%4", "invalid 'entity_id' parameter: '%' must be followed by two hexadecimal digits");
        refused("entity_id=%zz", "invalid 'entity_id' parameter: '%' must be followed by two hexadecimal digits");
        refused("entity_id=%+1", "invalid 'entity_id' parameter: '%' must be followed by two hexadecimal digits");
        refused("entity_id=a%00", "invalid 'entity_id' parameter: %00 is not accepted");
        refused("entity_id=a\0", "invalid 'entity_id' parameter: %00 is not accepted");
        refused("entity_id=%ff", "invalid 'entity_id' parameter: not UTF-8");
        refused("whatever=%c3%28", "invalid 'whatever' parameter: not UTF-8");
        assert!(QueryParams::parse(b"entity_id=\xff", TENANT).is_err());
        parse("strict=1&limit=5");
        parse("strict=0&before=x");
        parse("before=x&before=y");
    }

    #[test]
    fn a_plus_is_itself_in_a_path() {
        assert_eq!(decode(b"a+b%3Ac", Plus::Itself).unwrap(), "a+b:c");
        assert_eq!(decode(b"a+b%3ac", Plus::Space).unwrap(), "a b:c");
        assert_eq!(decode(b"skill%2Fabc", Plus::Itself).unwrap(), "skill/abc");
    }

    #[test]
    fn base64url_reads_back_and_has_one_spelling() {
        assert_eq!(base64url(b"\xfb\xff\xfe"), "-__-");
        assert_eq!(base64url(b"f"), "Zg");
        assert_eq!(base64url(b"fo"), "Zm8");
        assert_eq!(from_base64url::<2>("Zm8"), Some(*b"fo"));
        for wrong in ["Zm9", "Zm8=", "Zm", "Zm8A", "Z+8", "Z/8", "Z 8", "Zm\u{e9}"] {
            assert_eq!(from_base64url::<2>(wrong), None, "{wrong}");
        }
        let bytes: [u8; 26] = std::array::from_fn(|index| (index * 37) as u8);
        assert_eq!(from_base64url(&base64url(&bytes)), Some(bytes));
    }

    #[test]
    fn a_cursor_goes_on_where_the_answer_ended() {
        let key = CursorKey::new(&[9; 32]);
        let query = "event_type=a&payload_filter={\"a\":1}&exclude_event_type_prefix=x,y&order=desc";
        let token = parse(query).cursor_after(&key, Position(u64::MAX - 5));
        assert!(token.len() == 35 && token.bytes().all(|byte| BASE64URL.contains(&byte)), "{token}");
        let resume = |query: &str, tenant: Tenant, key: &CursorKey| {
            let mut params = QueryParams::parse(format!("{query}&cursor={token}").as_bytes(), tenant).unwrap();
            params.resume(key).map(|()| params.spec.after).map_err(|error| error.fault)
        };
        assert_eq!(resume(query, TENANT, &key), Ok(Some(Position(u64::MAX - 5))));
        assert_eq!(resume(&format!("{query}&limit=3"), TENANT, &key), Ok(Some(Position(u64::MAX - 5))));
        let reordered = "order=desc&exclude_event_type_prefix=y,x&event_type=a&payload_filter={\"a\":1}";
        assert_eq!(resume(reordered, TENANT, &key), Ok(Some(Position(u64::MAX - 5))));

        let mismatch = Err(ParamFault::Cursor(CursorError::CursorMismatch));
        assert_eq!(resume(query, Tenant(8), &key), mismatch);
        assert_eq!(resume(&query.replace("desc", "asc"), TENANT, &key), mismatch);
        assert_eq!(resume(&query.replace("event_type=a", "event_type=b"), TENANT, &key), mismatch);
        assert_eq!(resume(&query.replace("event_type=a", "event_type_prefix=a"), TENANT, &key), mismatch);
        assert_eq!(resume(&query.replace(":1}", ":2}"), TENANT, &key), mismatch);
        assert_eq!(resume(&query.replace("x,y", "x"), TENANT, &key), mismatch);
        assert_eq!(resume(&format!("{query}&since=1"), TENANT, &key), mismatch);
        assert_eq!(resume(&format!("{query}&entity_id="), TENANT, &key), mismatch);
        let other_key = CursorKey::new(&[8; 32]);
        assert_eq!(resume(query, TENANT, &other_key), Err(ParamFault::Cursor(CursorError::InvalidCursor)));
    }

    #[test]
    fn no_changed_cursor_is_believed() {
        let key = CursorKey::new(&[9; 32]);
        let filters = FilterHash([1; 8]);
        let cursor = Cursor { order: Order::Ascending, position: Position(1234) };
        let token = cursor.encode(&key, filters);
        assert_eq!(Cursor::decode(&token, &key, filters), Ok(cursor));
        assert_eq!(Cursor::decode(&token, &key, FilterHash([2; 8])), Err(CursorError::CursorMismatch));
        for place in 0..token.len() {
            for other in [b'A', b'_', b'7', b'='] {
                let mut changed = token.clone().into_bytes();
                if changed[place] != other {
                    changed[place] = other;
                    let changed = String::from_utf8(changed).unwrap();
                    assert_eq!(Cursor::decode(&changed, &key, filters), Err(CursorError::InvalidCursor), "{changed}");
                }
            }
        }
        for wrong in ["", "A", &token[1..], &format!("{token}A"), &format!("{token}=")] {
            assert_eq!(Cursor::decode(wrong, &key, filters), Err(CursorError::InvalidCursor), "{wrong}");
        }
    }

    fn matches(filter: &str, payload: &str) -> bool {
        PayloadFilter::parse(filter).unwrap().matches(payload.as_bytes())
    }

    #[test]
    fn a_filter_compares_values_and_not_their_spelling() {
        for (filter, payload) in [
            ("{}", "{}"),
            ("{}", "[1]"),
            ("{}", "not json"),
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":1}"#, r#" { "b" : [ ] , "a" : 1 } "#),
            (r#"{"a":1}"#, r#"{"a":1.0}"#),
            (r#"{"a":1e0}"#, r#"{"a":1}"#),
            (r#"{"a":100}"#, r#"{"a":1E+2}"#),
            (r#"{"a":0}"#, r#"{"a":-0}"#),
            (r#"{"a":0}"#, r#"{"a":-0.0}"#),
            (r#"{"a":0.1}"#, r#"{"a":0.10}"#),
            (r#"{"a":18446744073709551615}"#, r#"{"a":18446744073709551615}"#),
            (r#"{"a":-9223372036854775808}"#, r#"{"a":-9223372036854775808.0}"#),
            (r#"{"a":123456789012345678901234567890}"#, r#"{"a":123456789012345678901234567890}"#),
            (r#"{"a":1e999}"#, r#"{"a":1e999}"#),
            (r#"{"a":"x"}"#, r#"{"a":"\u0078"}"#),
            (r#"{"a":"\u0078"}"#, r#"{"a":"x"}"#),
            (r#"{"\u0061":"x"}"#, r#"{"\u0061":"x"}"#),
            (r#"{"a":"x"}"#, r#"{"\u0061":"x"}"#),
            (r#"{"a":"\ud83d\ude00"}"#, "{\"a\":\"\u{1f600}\"}"),
            (r#"{"a":null,"b":true,"c":false}"#, r#"{"c":false,"b":true,"a":null,"d":0}"#),
            (r#"{"a":[1,{"b":2}]}"#, r#"{"a":[1.0,{"b":2}]}"#),
            (r#"{"a":{"b":1,"c":2}}"#, r#"{"a":{"c":2,"b":1}}"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":1,"b":2}}"#),
            (r#"{"a":1}"#, r#"{"a":1,"a":2}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":1}"#),
        ] {
            assert!(matches(filter, payload), "{filter} {payload}");
        }
    }

    #[test]
    fn a_filter_wants_all_keys_with_equal_values() {
        for (filter, payload) in [
            (r#"{"a":1}"#, "{}"),
            (r#"{"a":1}"#, "[1]"),
            (r#"{"a":1}"#, "\"a\""),
            (r#"{"a":1}"#, "not json"),
            (r#"{"a":1}"#, ""),
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":1}"#, r#"{"a":2,"a":1}"#),
            (r#"{"a":1}"#, r#"{"b":{"a":1}}"#),
            (r#"{"a":1,"b":2}"#, r#"{"a":1}"#),
            (r#"{"a":1,"b":2}"#, r#"{"a":1,"a":1}"#),
            (r#"{"a":null}"#, r#"{"b":null}"#),
            (r#"{"a":null}"#, r#"{"a":0}"#),
            (r#"{"a":true}"#, r#"{"a":false}"#),
            (r#"{"a":""}"#, r#"{"a":null}"#),
            (r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992}"#),
            (r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992.0}"#),
            (r#"{"a":123456789012345678901234567890}"#, r#"{"a":123456789012345678901234567891}"#),
            (r#"{"a":1e400}"#, r#"{"a":1e401}"#),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#),
            (r#"{"a":[1]}"#, r#"{"a":[1,1]}"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":1,"c":2}}"#),
            (r#"{"a":{}}"#, r#"{"a":[]}"#),
            (r#"{"a":"x"}"#, r#"{"a":"X"}"#),
        ] {
            assert!(!matches(filter, payload), "{filter} {payload}");
        }
    }

    #[test]
    fn a_filter_has_a_ceiling() {
        let keys = |count: usize| {
            let fields: Vec<String> = (0..count).map(|index| format!("\"k{index}\":{index}")).collect();
            format!("{{{}}}", fields.join(","))
        };
        assert!(matches(&keys(64), &keys(64)));
        assert!(!matches(&keys(64), &keys(63)));
        assert_eq!(PayloadFilter::parse(&keys(65)), Err(FilterError::TooManyKeys));
    }
}
