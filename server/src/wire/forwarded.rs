//! Whose request this is, by address: the socket's peer, or what a proxy that the operator named says of it.
//!
//! Owns the reading of `X-Forwarded-For`. Must never believe a word of it from anybody else: whoever may choose their
//! address has no limit, and can spend another's.
//!
//! ```text
//! X-Forwarded-For: 203.0.113.9, 198.51.100.7, 10.0.0.2      ◄─ written by 10.0.0.1, the socket's peer
//!                  anything      the client    trusted  ◄────  trusted: read from the right, stop at the first stranger
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::http::Head;

const FORWARDED_FOR: &[u8] = b"x-forwarded-for";

/// A guess: nobody has so many networks of proxies, and each request looks at all of them.
const NETWORKS_MAX: usize = 64;
/// Proxies in a row that are believed. A head cannot hold more than some thousand.
const HOPS_MAX: usize = 32;

/// A block of addresses, such as `10.0.0.0/8` or `2001:db8::/32`; a bare address is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// With zeros behind the prefix; IPv4 stands as IPv4, never mapped.
    first: IpAddr,
    prefix_bits: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkError {
    Address(String),
    Prefix(String),
    /// Bits behind the prefix are set: either the address or its length is a mistake.
    HostBits(String),
    /// A prefix of 0 would let everybody choose their address.
    Everybody(String),
    TooMany,
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkError::Address(text) => write!(f, "{text:?} is not an address or a network such as 10.0.0.0/8"),
            NetworkError::Prefix(text) => {
                write!(f, "{text:?}: the prefix is not a number of bits that the address has")
            }
            NetworkError::HostBits(text) => write!(f, "{text:?}: bits behind the prefix are set"),
            NetworkError::Everybody(text) => {
                write!(f, "{text:?} is every address: whoever connects could choose theirs")
            }
            NetworkError::TooMany => write!(f, "more than {NETWORKS_MAX} networks"),
        }
    }
}

impl std::error::Error for NetworkError {}

impl Network {
    pub fn parse(text: &str) -> Result<Network, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| NetworkError::Address(text.to_owned()))?;
        let bits_max = bits_of(first);
        let prefix_bits = match prefix {
            None => bits_max,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|bits| *bits <= bits_max)
                .ok_or_else(|| NetworkError::Prefix(text.to_owned()))?,
            Some(_) => return Err(NetworkError::Prefix(text.to_owned())),
        };
        if prefix_bits == 0 {
            return Err(NetworkError::Everybody(text.to_owned()));
        }
        if masked(first, prefix_bits) != first {
            return Err(NetworkError::HostBits(text.to_owned()));
        }
        // A mapped block is the IPv4 block that it maps; a wider one holds nothing that a peer can be.
        match (first, first.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if 96 < prefix_bits => {
                Ok(Network { first: v4, prefix_bits: prefix_bits - 96 })
            }
            _ => Ok(Network { first, prefix_bits }),
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        bits_of(address) == bits_of(self.first) && masked(address, self.prefix_bits) == self.first
    }
}

/// As it is written in a configuration.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

fn bits_of(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => Ipv4Addr::BITS,
        IpAddr::V6(_) => Ipv6Addr::BITS,
    }
}

fn masked(address: IpAddr, prefix_bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(Ipv4Addr::BITS - prefix_bits).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(Ipv6Addr::BITS - prefix_bits).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// The proxies that the operator named; none unless they did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    pub fn parse<'a>(networks: impl IntoIterator<Item = &'a str>) -> Result<TrustedProxies, NetworkError> {
        let networks: Vec<Network> = networks.into_iter().map(Network::parse).collect::<Result<_, _>>()?;
        if NETWORKS_MAX < networks.len() { Err(NetworkError::TooMany) } else { Ok(TrustedProxies(networks)) }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The address that limits and the audit log know a request by.
    pub fn client_of(&self, peer: IpAddr, head: &Head<'_>) -> IpAddr {
        if !self.contains(peer) {
            return peer.to_canonical();
        }
        let named = head.headers().filter(|(name, _)| name.eq_ignore_ascii_case(FORWARDED_FOR));
        let values: Vec<&[u8]> = named.map(|(_, value)| value).collect();
        self.client_address(peer, values)
    }

    /// `forwarded_for` are the values of the `X-Forwarded-For` headers in the order in which they came.
    ///
    /// The right-most that is not a trusted proxy; what stands to its left it could have made up. Where a trusted proxy
    /// wrote something that is no address, that proxy itself.
    pub fn client_address<'a, I>(&self, peer: IpAddr, forwarded_for: I) -> IpAddr
    where
        I: IntoIterator<Item = &'a [u8], IntoIter: DoubleEndedIterator>,
    {
        let mut client = peer.to_canonical();
        let hops = forwarded_for.into_iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
        for hop in hops.take(HOPS_MAX) {
            if !self.contains(client) {
                break;
            }
            match parse_hop(hop) {
                Some(address) => client = address,
                None => break,
            }
        }
        client
    }
}

/// A list, as it is written in a configuration.
impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            write!(f, "{}{network}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// An address as proxies write it: bare, or with a port that says nothing to us, IPv6 then in brackets.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop.trim_ascii()).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let is_port = |text: &str| text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        let rest_fits = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return address
            .parse::<Ipv6Addr>()
            .ok()
            .filter(|_| rest_fits)
            .map(|address| IpAddr::V6(address).to_canonical());
    }
    let (address, port) = text.split_once(':')?;
    address.parse::<Ipv4Addr>().ok().filter(|_| is_port(port)).map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// With 10.0.0.0/8, 192.0.2.1 and 2001:db8:1::/48 trusted.
    fn check(peer: &str, forwarded_for: &[&str], expected: &str) {
        let proxies = TrustedProxies::parse(["10.0.0.0/8", "192.0.2.1", "2001:db8:1::/48"]).unwrap();
        let values: Vec<&[u8]> = forwarded_for.iter().map(|value| value.as_bytes()).collect();
        assert_eq!(proxies.client_address(address(peer), values), address(expected), "{peer} {forwarded_for:?}");
    }

    #[test]
    fn a_stranger_is_not_believed() {
        check("203.0.113.5", &[], "203.0.113.5");
        check("203.0.113.5", &["198.51.100.7"], "203.0.113.5");
        check("203.0.113.5", &["10.0.0.1"], "203.0.113.5");
        check("::ffff:203.0.113.5", &["198.51.100.7"], "203.0.113.5");
        check("127.0.0.1", &["198.51.100.7"], "127.0.0.1");
        check("2001:db8:2::1", &["198.51.100.7"], "2001:db8:2::1");
    }

    #[test]
    fn behind_a_trusted_proxy_it_is_the_last_stranger() {
        check("10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("192.0.2.1", &["198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["203.0.113.9, 198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["127.0.0.1,198.51.100.7 , 10.0.0.2,192.0.2.1"], "198.51.100.7");
        check("2001:db8:1::5", &["2001:db8:2::1, 2001:db8:1:ffff::9"], "2001:db8:2::1");
        check("10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7");
    }

    #[test]
    fn several_headers_are_one_list() {
        check("10.0.0.1", &["203.0.113.9", "198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["203.0.113.9, 198.51.100.7", "10.0.0.2, 10.0.0.3"], "198.51.100.7");
    }

    #[test]
    fn where_only_proxies_stand_it_is_the_first_of_them() {
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
    }

    #[test]
    fn what_is_no_address_ends_the_reading_at_whoever_wrote_it() {
        for nonsense in
            ["", "unknown", "1.2.3", "1.2.3.4.5", "_hidden", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:+80", "::1%eth0"]
        {
            check("10.0.0.1", &[nonsense], "10.0.0.1");
            check("10.0.0.1", &[&format!("198.51.100.7, {nonsense}, 10.0.0.2")], "10.0.0.2");
            check("10.0.0.1", &[&format!("{nonsense}, 198.51.100.7")], "198.51.100.7");
        }
        let proxies = TrustedProxies::parse(["10.0.0.0/8"]).unwrap();
        assert_eq!(proxies.client_address(address("10.0.0.1"), [&b"\xff\xfe"[..]]), address("10.0.0.1"));
    }

    #[test]
    fn ports_are_read_over() {
        check("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7");
        check("10.0.0.1", &["[2001:db8:2::1]:4711"], "2001:db8:2::1");
        check("10.0.0.1", &["[2001:db8:2::1]"], "2001:db8:2::1");
        check("10.0.0.1", &["[198.51.100.7]:80"], "10.0.0.1");
        check("10.0.0.1", &["[2001:db8:2::1]x"], "10.0.0.1");
        check("10.0.0.1", &["2001:db8:2::1"], "2001:db8:2::1");
    }

    #[test]
    fn a_row_of_proxies_without_end_is_cut() {
        let many = format!("198.51.100.7, {}", vec!["10.0.0.9"; HOPS_MAX].join(", "));
        check("10.0.0.1", &[&many], "10.0.0.9");
        let just = format!("198.51.100.7, {}", vec!["10.0.0.9"; HOPS_MAX - 1].join(", "));
        check("10.0.0.1", &[&just], "198.51.100.7");
    }

    #[test]
    fn without_configuration_nobody_is_trusted() {
        let none = TrustedProxies::default();
        for peer in ["127.0.0.1", "::1", "10.0.0.1", "0.0.0.0"] {
            assert_eq!(none.client_address(address(peer), [&b"198.51.100.7"[..]]), address(peer));
        }
    }

    #[test]
    fn a_request_is_its_clients_where_a_trusted_proxy_passed_it_on() {
        let proxies = TrustedProxies::parse(["10.0.0.0/8"]).unwrap();
        let head = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 203.0.113.9\r\nx-forwarded-for: 198.51.100.7, 10.0.0.2\r\n\r\n";
        let (head, _) =
            crate::wire::http::parse_head(head.as_bytes(), &crate::wire::http::HeadLimits::SERVER).unwrap().unwrap();
        assert_eq!(proxies.client_of(address("10.0.0.1"), &head), address("198.51.100.7"));
        assert_eq!(proxies.client_of(address("::ffff:192.0.2.1"), &head), address("192.0.2.1"));
        assert_eq!(TrustedProxies::default().client_of(address("10.0.0.1"), &head), address("10.0.0.1"));
    }

    #[test]
    fn a_list_is_shown_as_it_is_written() {
        let networks = ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"];
        assert_eq!(TrustedProxies::parse(networks).unwrap().to_string(), networks.join(","));
    }

    #[test]
    fn networks_contain_what_their_prefix_says() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
            ("192.0.2.1/32", "192.0.2.1", "192.0.2.2"),
            ("128.0.0.0/1", "255.0.0.1", "127.0.0.1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "a00::"),
        ] {
            let parsed = Network::parse(network).unwrap();
            assert!(parsed.contains(address(inside)), "{network} {inside}");
            assert!(!parsed.contains(address(outside)), "{network} {outside}");
        }
    }

    #[test]
    fn mistakes_in_networks_are_refused() {
        type Error = fn(String) -> NetworkError;
        let cases: [(&str, Error); 16] = [
            ("", NetworkError::Address),
            ("10.0.0", NetworkError::Address),
            ("proxy.example.com", NetworkError::Address),
            (" 10.0.0.1", NetworkError::Address),
            ("/8", NetworkError::Address),
            ("fe80::1%eth0", NetworkError::Address),
            ("10.0.0.0/", NetworkError::Prefix),
            ("10.0.0.0/33", NetworkError::Prefix),
            ("10.0.0.0/+8", NetworkError::Prefix),
            ("10.0.0.0/255.0.0.0", NetworkError::Prefix),
            ("10.0.0.0/99999999999", NetworkError::Prefix),
            ("::/129", NetworkError::Prefix),
            ("10.0.0.1/8", NetworkError::HostBits),
            ("2001:db8::1/32", NetworkError::HostBits),
            ("0.0.0.0/0", NetworkError::Everybody),
            ("::/0", NetworkError::Everybody),
        ];
        for (text, error) in cases {
            assert_eq!(Network::parse(text), Err(error(text.to_owned())), "{text}");
        }
        assert_eq!(TrustedProxies::parse(["10.0.0.1"; NETWORKS_MAX + 1]), Err(NetworkError::TooMany));
        assert!(TrustedProxies::parse(["10.0.0.1"; NETWORKS_MAX]).is_ok());
    }
}
