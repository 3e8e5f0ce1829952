//! HTTP/1 request heads, parsed where they were received.
//!
//! Owns the framing rules: what a head must look like before one byte of it is believed. `httparse` splits header
//! tokens; every decision about where a message ends is made here. Never repairs: what two readers could read
//! differently is refused, because the difference is the attack.
//!
//! ```text
//! [CRLF CRLF]  METHOD SP target SP HTTP/1.x CRLF  name: value CRLF ...  CRLF  body
//! 0            request_at                         headers_at                  end
//! ```

use std::borrow::Cow;
use std::fmt;
use std::mem::MaybeUninit;

use crate::limits::{
    CONTENT_LENGTH_MAX, HEADER_BLOCK_BYTES_MAX, HEADER_COUNT_MAX, LEADING_EMPTY_LINES_MAX, REQUEST_LINE_BYTES_MAX,
};
use crate::wire::status::ErrorCode;

/// The ceilings of one head. Tests shrink them; the server uses [`HeadLimits::SERVER`].
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Without its line end.
    pub request_line_bytes_max: usize,
    /// From after the request line, with the empty line that ends the block.
    pub header_block_bytes_max: usize,
    pub header_count_max: usize,
}

impl HeadLimits {
    pub const SERVER: Self = Self {
        request_line_bytes_max: REQUEST_LINE_BYTES_MAX,
        header_block_bytes_max: HEADER_BLOCK_BYTES_MAX,
        header_count_max: HEADER_COUNT_MAX,
    };
}

/// A head that is refused. Where the next message would begin is unknown, so the connection ends with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpError {
    pub code: ErrorCode,
    /// Names the rule, never the client's bytes.
    pub message: &'static str,
}

impl HttpError {
    pub const fn new(code: ErrorCode, message: &'static str) -> Self {
        Self { code, message }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for HttpError {}

const fn bad(message: &'static str) -> HttpError {
    HttpError::new(ErrorCode::BadFraming, message)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How the end of the body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    None,
    Length(u64),
    Chunked,
}

/// A place in the head. Offset 0 is the method's, so an empty span at 0 means absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    at: u16,
    len: u16,
}

impl Span {
    const ABSENT: Self = Self { at: 0, len: 0 };

    fn new(start: usize, end: usize) -> Self {
        assert!(start <= end && end <= usize::from(u16::MAX));
        Self { at: start as u16, len: (end - start) as u16 }
    }

    fn is_absent(self) -> bool {
        self == Self::ABSENT
    }

    fn of(self, bytes: &[u8]) -> Option<&[u8]> {
        let start = usize::from(self.at);
        if self.is_absent() { None } else { bytes.get(start..start + usize::from(self.len)) }
    }
}

/// Where everything in a head lies, without the bytes: what a connection keeps while the body arrives.
#[derive(Clone, Copy, Debug)]
pub struct HeadIndex {
    method: Method,
    version: Version,
    keep_alive: bool,
    expect_continue: bool,
    framing: BodyFraming,
    headers_at: u16,
    end: u16,
    path: Span,
    query: Span,
    host: Span,
    content_type: Span,
    content_encoding: Span,
    authorization: Span,
    x_api_key: Span,
    x_request_id: Span,
    x_tenant_id: Span,
    x_workspace_id: Span,
    if_none_match: Span,
    accept: Span,
    idempotency_key: Span,
}

impl HeadIndex {
    pub fn version(&self) -> Version {
        self.version
    }

    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub fn expect_continue(&self) -> bool {
        self.expect_continue
    }

    /// The head in `bytes`, which must begin with the very bytes that were parsed.
    pub fn over<'a>(&self, bytes: &'a [u8]) -> Head<'a> {
        Head { bytes, index: *self }
    }
}

/// One request head, borrowed from the bytes it arrived in.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    bytes: &'a [u8],
    index: HeadIndex,
}

impl<'a> Head<'a> {
    pub fn index(&self) -> &HeadIndex {
        &self.index
    }

    /// What [`HeadIndex::over`] needs to make this head again.
    pub fn bytes(&self) -> &'a [u8] {
        &self.bytes[..usize::from(self.index.end)]
    }

    pub fn method(&self) -> Method {
        self.index.method
    }

    /// As it was sent: percent-encoded, without the query, and never normalised.
    pub fn path(&self) -> &'a str {
        ascii(self.index.path.of(self.bytes))
    }

    /// What follows `?`, undecoded. `None` without a `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.index.query.of(self.bytes).map(|query| ascii(Some(query)))
    }

    pub fn version(&self) -> Version {
        self.index.version
    }

    /// What the client asks for; the connection may still decide to close.
    pub fn keep_alive(&self) -> bool {
        self.index.keep_alive
    }

    pub fn framing(&self) -> BodyFraming {
        self.index.framing
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub fn expect_continue(&self) -> bool {
        self.index.expect_continue
    }

    pub fn host(&self) -> Option<&'a str> {
        self.index.host.of(self.bytes).map(|host| ascii(Some(host)))
    }

    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.index.content_type.of(self.bytes)
    }

    pub fn content_encoding(&self) -> Option<&'a [u8]> {
        self.index.content_encoding.of(self.bytes)
    }

    /// The whole value, scheme included. Never goes into a log or an error text.
    pub fn authorization(&self) -> Option<&'a [u8]> {
        self.index.authorization.of(self.bytes)
    }

    pub fn x_api_key(&self) -> Option<&'a [u8]> {
        self.index.x_api_key.of(self.bytes)
    }

    pub fn x_request_id(&self) -> Option<&'a [u8]> {
        self.index.x_request_id.of(self.bytes)
    }

    pub fn x_tenant_id(&self) -> Option<&'a [u8]> {
        self.index.x_tenant_id.of(self.bytes)
    }

    pub fn x_workspace_id(&self) -> Option<&'a [u8]> {
        self.index.x_workspace_id.of(self.bytes)
    }

    pub fn if_none_match(&self) -> Option<&'a [u8]> {
        self.index.if_none_match.of(self.bytes)
    }

    pub fn accept(&self) -> Option<&'a [u8]> {
        self.index.accept.of(self.bytes)
    }

    pub fn idempotency_key(&self) -> Option<&'a [u8]> {
        self.index.idempotency_key.of(self.bytes)
    }

    /// The first header of that name, by a walk over the block: for the ones that few routes ask for.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// All headers in the order they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let block = &self.bytes[usize::from(self.index.headers_at)..usize::from(self.index.end) - 2];
        block.split_inclusive(|&byte| byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
    }
}

fn ascii(bytes: Option<&[u8]>) -> &str {
    // The parser let only visible ASCII through.
    bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

/// Parses the head at the start of `bytes`.
///
/// `Ok(None)` when more bytes are needed; otherwise the head and how many bytes it took.
/// A refusal never depends on how much follows, so it does not matter where the network split the bytes.
pub fn parse_head<'a>(bytes: &'a [u8], limits: &HeadLimits) -> Result<Option<(Head<'a>, usize)>, HttpError> {
    match HeadScan::default().advance(bytes, limits)? {
        None => Ok(None),
        Some(extent) => Ok(Some((parse_extent(bytes, extent, limits)?, extent.end))),
    }
}

/// Where a complete head lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadExtent {
    request_at: usize,
    headers_at: usize,
    /// Of the head; the body begins here.
    pub end: usize,
}

/// Finds the end of a head over several arrivals without looking at a byte twice, and refuses at the first byte
/// that no continuation could make good: line ends other than CRLF, control bytes, a line or block too long.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    offset: usize,
    line_at: usize,
    request_at: usize,
    /// 0 while still in the request line.
    headers_at: usize,
    empty_lines: u8,
}

impl HeadScan {
    /// `bytes` begins where it began in the call before, and may only have grown.
    pub fn advance(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<HeadExtent>, HttpError> {
        loop {
            self.check_first_byte(bytes)?;
            let found = find_control(bytes, self.offset);
            // Ceilings come before the byte that was found, or the splitting would decide which error wins.
            self.check_ceilings(found, limits)?;
            self.offset = found;
            let Some(&byte) = bytes.get(found) else { return Ok(None) };
            match (byte, bytes.get(found + 1)) {
                (b'\t', _) => self.offset = found + 1,
                (b'\r', None) => return Ok(None),
                (b'\r', Some(b'\n')) => {
                    if let Some(extent) = self.end_line(limits)? {
                        return Ok(Some(extent));
                    }
                }
                (b'\r', Some(_)) => return Err(bad("a carriage return without a line feed in the head")),
                (b'\n', _) => return Err(bad("a line feed without a carriage return in the head")),
                _ => return Err(bad("a control byte in the head")),
            }
        }
    }

    /// A TLS greeting or a binary frame is refused at its first byte instead of after ten seconds.
    fn check_first_byte(&self, bytes: &[u8]) -> Result<(), HttpError> {
        if self.headers_at != 0 || self.offset != self.request_at {
            return Ok(());
        }
        match bytes.get(self.offset) {
            Some(&byte) if byte != b'\r' && !is_token_byte(byte) => Err(bad("the first byte is not that of a method")),
            _ => Ok(()),
        }
    }

    fn check_ceilings(&self, reached: usize, limits: &HeadLimits) -> Result<(), HttpError> {
        if self.headers_at == 0 {
            if reached - self.request_at > limits.request_line_bytes_max {
                return Err(HttpError::new(ErrorCode::UriTooLong, "the request line is too long"));
            }
        } else if reached - self.headers_at > limits.header_block_bytes_max {
            return Err(HttpError::new(ErrorCode::HeadersTooLarge, "the header block is too long"));
        }
        Ok(())
    }

    /// Takes the CRLF at `offset`.
    fn end_line(&mut self, limits: &HeadLimits) -> Result<Option<HeadExtent>, HttpError> {
        let is_empty = self.offset == self.line_at;
        self.offset += 2;
        self.line_at = self.offset;
        if self.headers_at != 0 {
            if !is_empty {
                return Ok(None);
            }
            self.check_ceilings(self.offset, limits)?;
            return Ok(Some(HeadExtent { request_at: self.request_at, headers_at: self.headers_at, end: self.offset }));
        }
        if is_empty {
            self.empty_lines += 1;
            self.request_at = self.offset;
            if self.empty_lines > LEADING_EMPTY_LINES_MAX {
                return Err(bad("too many empty lines before the request line"));
            }
        } else {
            self.headers_at = self.offset;
        }
        Ok(None)
    }
}

const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;

/// The first byte below 0x20 at or after `from`, or the length. Eight bytes at a time, portable.
fn find_control(bytes: &[u8], from: usize) -> usize {
    let mut offset = from;
    while let Some(word) = bytes.get(offset..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*word);
        // A byte's top bit stays clear exactly when the byte is below 0x20: its low seven bits plus 0x60 do not
        // reach 0x80, and no sum carries into the next byte.
        let hits = !((word & LOW_BITS).wrapping_add(0x6060_6060_6060_6060) | word) & !LOW_BITS;
        if hits != 0 {
            return offset + hits.trailing_zeros() as usize / 8;
        }
        offset += 8;
    }
    bytes[offset..].iter().position(|&byte| byte < 0x20).map_or(bytes.len(), |found| offset + found)
}

/// Parses the head that [`HeadScan`] found.
pub fn parse_extent<'a>(bytes: &'a [u8], extent: HeadExtent, limits: &HeadLimits) -> Result<Head<'a>, HttpError> {
    if extent.end > usize::from(u16::MAX) {
        return Err(HttpError::new(ErrorCode::HeadersTooLarge, "the head is too long"));
    }
    let line = RequestLine::parse(bytes, extent)?;
    let mut storage = [const { MaybeUninit::uninit() }; HEADER_COUNT_MAX];
    let mut request = httparse::Request::new(&mut []);
    let count_max = limits.header_count_max.min(HEADER_COUNT_MAX);
    match request
        .parse_with_uninit_headers(&bytes[extent.request_at..extent.end], &mut storage[..count_max])
        .map_err(token_error)?
    {
        httparse::Status::Complete(len) if len == extent.end - extent.request_at => {}
        _ => return Err(bad("the head does not end where its lines do")),
    }

    let mut fields = Fields::default();
    for header in &*request.headers {
        let start = header.value.as_ptr().addr() - bytes.as_ptr().addr();
        // An empty value may lie anywhere as far as `httparse` is concerned; its place says only that it is there.
        let value =
            if header.value.is_empty() { Span { at: 1, len: 0 } } else { Span::new(start, start + header.value.len()) };
        fields.take(header.name.as_bytes(), header.value, value)?;
    }
    let framing = fields.framing(line.version)?;
    check_host(bytes, &line, fields.host)?;
    let keep_alive = match line.version {
        Version::Http11 => !fields.says_close,
        Version::Http10 => fields.says_keep_alive && !fields.says_close,
    };
    Ok(Head {
        bytes,
        index: HeadIndex {
            method: line.method,
            version: line.version,
            keep_alive,
            // RFC 9110 10.1.1: a 1.0 client cannot mean it.
            expect_continue: fields.expects && line.version == Version::Http11 && framing != BodyFraming::None,
            framing,
            headers_at: extent.headers_at as u16,
            end: extent.end as u16,
            path: line.path,
            query: line.query,
            host: fields.host,
            content_type: fields.content_type,
            content_encoding: fields.content_encoding,
            authorization: fields.authorization,
            x_api_key: fields.x_api_key,
            x_request_id: fields.x_request_id,
            x_tenant_id: fields.x_tenant_id,
            x_workspace_id: fields.x_workspace_id,
            if_none_match: fields.if_none_match,
            accept: fields.accept,
            idempotency_key: fields.idempotency_key,
        },
    })
}

fn token_error(error: httparse::Error) -> HttpError {
    match error {
        httparse::Error::TooManyHeaders => HttpError::new(ErrorCode::HeadersTooLarge, "too many headers"),
        httparse::Error::HeaderName => bad("a header name is not a token followed by a colon"),
        httparse::Error::HeaderValue => bad("a header value holds a byte it must not"),
        httparse::Error::Token | httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Version => {
            bad("the request line is malformed")
        }
    }
}

struct RequestLine {
    method: Method,
    version: Version,
    path: Span,
    query: Span,
    /// Of an absolute-form target.
    authority: Span,
}

impl RequestLine {
    fn parse(bytes: &[u8], extent: HeadExtent) -> Result<Self, HttpError> {
        const SHAPE: HttpError = bad("the request line is not `METHOD target HTTP/1.1`");
        let line = &bytes[extent.request_at..extent.headers_at - 2];
        let space = |from: usize| line[from..].iter().position(|&byte| byte == b' ').map(|found| from + found);
        let method_end = space(0).ok_or(SHAPE)?;
        let target_end = space(method_end + 1).ok_or(SHAPE)?;
        let (method, target, version) =
            (&line[..method_end], &line[method_end + 1..target_end], &line[target_end + 1..]);
        if method.is_empty() || !method.iter().all(|&byte| is_token_byte(byte)) {
            return Err(SHAPE);
        }
        let version = parse_version(version).ok_or(SHAPE)??;
        let method = parse_method(method)?;
        let (authority, path_at) = split_authority(target)?;

        let target_at = extent.request_at + method_end + 1;
        let rest = &target[path_at..];
        let question = rest.iter().position(|&byte| byte == b'?');
        let path = &rest[..question.unwrap_or(rest.len())];
        check_target_bytes(rest)?;
        check_path(path)?;
        let path_at = target_at + path_at;
        Ok(Self {
            method,
            version,
            // `http://host` has an empty path, which is spelled `/`: point at the second slash of `http://`.
            path: if path.is_empty() {
                slash_span(target, target_at)?
            } else {
                Span::new(path_at, path_at + path.len())
            },
            query: question.map_or(Span::ABSENT, |found| Span::new(path_at + found + 1, path_at + rest.len())),
            authority: authority.map_or(Span::ABSENT, |(start, end)| Span::new(target_at + start, target_at + end)),
        })
    }
}

fn slash_span(target: &[u8], target_at: usize) -> Result<Span, HttpError> {
    let slash = target.iter().position(|&byte| byte == b'/').ok_or(bad("the target has no path"))?;
    Ok(Span::new(target_at + slash, target_at + slash + 1))
}

/// `None` when it is not a version at all, an error when it is one that is not spoken here.
fn parse_version(version: &[u8]) -> Option<Result<Version, HttpError>> {
    let number = version.strip_prefix(b"HTTP/")?;
    match number {
        b"1.1" => Some(Ok(Version::Http11)),
        b"1.0" => Some(Ok(Version::Http10)),
        [b'0'..=b'9'] | [b'0'..=b'9', b'.', b'0'..=b'9'] => {
            Some(Err(HttpError::new(ErrorCode::VersionNotSupported, "only HTTP/1.0 and HTTP/1.1 are spoken here")))
        }
        _ => None,
    }
}

fn parse_method(method: &[u8]) -> Result<Method, HttpError> {
    Ok(match method {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"POST" => Method::Post,
        b"PUT" => Method::Put,
        b"PATCH" => Method::Patch,
        b"DELETE" => Method::Delete,
        b"OPTIONS" => Method::Options,
        _ => return Err(HttpError::new(ErrorCode::NotImplemented, "the method is not one that is spoken here")),
    })
}

/// Where in the target the authority lies, if it is in absolute form, and where the path begins.
fn split_authority(target: &[u8]) -> Result<(Option<(usize, usize)>, usize), HttpError> {
    if target.first() == Some(&b'/') {
        return Ok((None, 0));
    }
    let scheme_len = ["http://", "https://"]
        .into_iter()
        .map(str::len)
        .zip([&b"http://"[..], b"https://"])
        .find(|(len, scheme)| target.get(..*len).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .map(|(len, _)| len)
        .ok_or(bad("the target is neither a path nor an http URL"))?;
    let authority_len =
        target[scheme_len..].iter().position(|&byte| matches!(byte, b'/' | b'?')).unwrap_or(target.len() - scheme_len);
    let end = scheme_len + authority_len;
    Ok((Some((scheme_len, end)), end))
}

fn check_target_bytes(target: &[u8]) -> Result<(), HttpError> {
    if target.iter().all(|&byte| (0x21..=0x7e).contains(&byte) && byte != b'#') {
        Ok(())
    } else {
        Err(bad("the target holds a byte that must be percent-encoded"))
    }
}

/// The path is compared as it is, so whatever two readers could resolve differently is refused.
fn check_path(path: &[u8]) -> Result<(), HttpError> {
    let mut dots_in_segment = 0;
    let mut others_in_segment = 0;
    let mut offset = 0;
    while offset < path.len() {
        let mut byte = path[offset];
        offset += 1;
        if byte == b'\\' {
            return Err(bad("a backslash in the path"));
        }
        if byte == b'/' {
            check_segment(dots_in_segment, others_in_segment)?;
            (dots_in_segment, others_in_segment) = (0, 0);
            continue;
        }
        if byte == b'%' {
            byte = hex_pair(&path[offset..]).ok_or(bad("a percent sign without two hexadecimal digits in the path"))?;
            offset += 2;
            if matches!(byte, 0 | b'/' | b'\\') {
                return Err(bad("an encoded zero, slash or backslash in the path"));
            }
        }
        if byte == b'.' {
            dots_in_segment += 1;
        } else {
            others_in_segment += 1;
        }
    }
    check_segment(dots_in_segment, others_in_segment)
}

fn check_segment(dots: usize, others: usize) -> Result<(), HttpError> {
    if dots == 2 && others == 0 { Err(bad("a `..` segment in the path")) } else { Ok(()) }
}

fn check_host(bytes: &[u8], line: &RequestLine, host: Span) -> Result<(), HttpError> {
    let Some(host) = host.of(bytes) else {
        return if line.version == Version::Http11 || !line.authority.is_absent() {
            Err(bad("the Host header is missing"))
        } else {
            Ok(())
        };
    };
    if host.is_empty() || !host.iter().all(|&byte| is_host_byte(byte)) {
        return Err(bad("the Host header is not a host"));
    }
    match line.authority.of(bytes) {
        Some(authority) if !authority.eq_ignore_ascii_case(host) => {
            Err(bad("the target names another host than the Host header"))
        }
        _ => Ok(()),
    }
}

/// What the headers say, gathered in one walk.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    is_chunked: bool,
    expects: bool,
    says_close: bool,
    says_keep_alive: bool,
    host: Span,
    content_type: Span,
    content_encoding: Span,
    authorization: Span,
    x_api_key: Span,
    x_request_id: Span,
    x_tenant_id: Span,
    x_workspace_id: Span,
    if_none_match: Span,
    accept: Span,
    idempotency_key: Span,
}

impl Fields {
    fn take(&mut self, name: &[u8], value: &[u8], span: Span) -> Result<(), HttpError> {
        // A gateway that maps `_` to `-` would let a client set what only the gateway may.
        if name.contains(&b'_') {
            return Err(bad("an underscore in a header name"));
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            4 if is("host") => set_once(&mut self.host, span),
            6 if is("accept") => set_first(&mut self.accept, span),
            6 if is("expect") => self.take_expect(value),
            9 if is("x-api-key") => set_once(&mut self.x_api_key, span),
            10 if is("connection") => self.take_connection(value),
            11 if is("x-tenant-id") => set_once(&mut self.x_tenant_id, span),
            12 if is("content-type") => set_once(&mut self.content_type, span),
            12 if is("x-request-id") => set_first(&mut self.x_request_id, span),
            13 if is("authorization") => set_once(&mut self.authorization, span),
            13 if is("if-none-match") => set_first(&mut self.if_none_match, span),
            14 if is("content-length") => self.take_length(value),
            14 if is("x-workspace-id") => set_once(&mut self.x_workspace_id, span),
            15 if is("idempotency-key") => set_once(&mut self.idempotency_key, span),
            16 if is("content-encoding") => set_once(&mut self.content_encoding, span),
            17 if is("transfer-encoding") => self.take_transfer_encoding(value),
            _ => Ok(()),
        }
    }

    fn take_length(&mut self, value: &[u8]) -> Result<(), HttpError> {
        const SHAPE: HttpError = bad("Content-Length is not one plain number");
        if self.length.is_some() || value.is_empty() {
            return Err(SHAPE);
        }
        let mut length = 0u64;
        for &byte in value {
            if !byte.is_ascii_digit() {
                return Err(SHAPE);
            }
            length = length * 10 + u64::from(byte - b'0');
            if length > CONTENT_LENGTH_MAX {
                return Err(bad("Content-Length is beyond any real length"));
            }
        }
        self.length = Some(length);
        Ok(())
    }

    fn take_transfer_encoding(&mut self, value: &[u8]) -> Result<(), HttpError> {
        if self.is_chunked || value != b"chunked" {
            return Err(bad("Transfer-Encoding is not exactly `chunked`"));
        }
        self.is_chunked = true;
        Ok(())
    }

    fn take_expect(&mut self, value: &[u8]) -> Result<(), HttpError> {
        if self.expects || !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(HttpError::new(ErrorCode::ExpectationFailed, "Expect is not `100-continue`"));
        }
        self.expects = true;
        Ok(())
    }

    fn take_connection(&mut self, value: &[u8]) -> Result<(), HttpError> {
        for option in value.split(|&byte| byte == b',') {
            let option = option.trim_ascii();
            self.says_close |= option.eq_ignore_ascii_case(b"close");
            self.says_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        Ok(())
    }

    fn framing(&self, version: Version) -> Result<BodyFraming, HttpError> {
        match (self.is_chunked, self.length) {
            (true, Some(_)) => Err(bad("both Content-Length and Transfer-Encoding")),
            (true, None) if version == Version::Http10 => Err(bad("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Ok(BodyFraming::Chunked),
            (false, Some(0) | None) => Ok(BodyFraming::None),
            (false, Some(length)) => Ok(BodyFraming::Length(length)),
        }
    }
}

/// For headers that say who is asking or what the body is: two of them are two answers.
fn set_once(field: &mut Span, span: Span) -> Result<(), HttpError> {
    if !field.is_absent() {
        return Err(bad("a header that may stand once stands twice"));
    }
    *field = span;
    Ok(())
}

fn set_first(field: &mut Span, span: Span) -> Result<(), HttpError> {
    if field.is_absent() {
        *field = span;
    }
    Ok(())
}

/// Decodes `%XX`, and `+` as a space when asked (query strings). `None` on a malformed escape or text that is not UTF-8.
/// To be used once on a value, never on one that was decoded before.
pub fn percent_decode(text: &str, plus: PlusSign) -> Option<Cow<'_, str>> {
    let has_plus = plus == PlusSign::IsSpace && text.contains('+');
    if !has_plus && !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut offset = 0;
    while let Some(&byte) = bytes.get(offset) {
        offset += 1;
        match byte {
            b'%' => {
                decoded.push(hex_pair(&bytes[offset..])?);
                offset += 2;
            }
            b'+' if has_plus => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlusSign {
    IsSpace,
    IsItself,
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let [high, low, ..] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(*high)? * 16 + digit(*low)?) as u8)
}

/// RFC 9110 5.6.2.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// What a host and port consist of, IPv6 literals included; no `@`, `/`, comma or space.
const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
}
