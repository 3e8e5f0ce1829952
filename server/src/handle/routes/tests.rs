//! Every route with every credential: what the table of routes and the table of roles say together.

use super::*;
use crate::auth::delta::{
    Change, CredentialKind, CredentialRow, CredentialState, Delta, Quotas, SYSTEM_TENANT_ID, TenantRow, TenantState,
};
use crate::auth::jwt::{Subject, TokenId, TokenSigner, VerifyingKeys};
use crate::auth::programmatic::random_key;
use crate::auth::role::{Permissions, Role};
use crate::auth::secret::Secret;
use crate::wire::http::{HeadLimits, parse_head};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: Micros = Micros(1_000_000_000);
const BOOTSTRAP: &str = "a-bootstrap-key-of-the-tests";
const STREAMING: &str = "000102030405060708090a0b0c0d0e0f";

const ACME: Tenant = Tenant(1);
const UMBRELLA: Tenant = Tenant(2);
const SUSPENDED: Tenant = Tenant(3);

/// A core's table and the keys in it, by what they are.
struct Fixture {
    credentials: Credentials,
    keys: Vec<(Holder, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// A key of acme.
    Acme(Role),
    /// A key of the system tenant.
    System(Role),
    Bootstrap,
    Streaming,
    /// A programmatic key that an admin of acme made, and one that can only read of all that.
    Programmatic,
    ReadingOnly,
    Expired,
    Revoked,
    Suspended,
    Malformed,
    Forged,
    Nobody,
}

impl Holder {
    fn is_good(self) -> bool {
        matches!(
            self,
            Holder::Acme(_)
                | Holder::System(_)
                | Holder::Bootstrap
                | Holder::Streaming
                | Holder::Programmatic
                | Holder::ReadingOnly
        )
    }

    fn may(self, permission: Permission) -> bool {
        match self {
            Holder::Acme(role) | Holder::System(role) => role.permissions().contains(permission),
            Holder::Bootstrap | Holder::Programmatic => true,
            Holder::Streaming => permission == Permission::Write,
            Holder::ReadingOnly => permission == Permission::Read,
            _ => false,
        }
    }

    fn is_operator(self) -> bool {
        matches!(self, Holder::Bootstrap | Holder::System(Role::Admin))
    }
}

fn fixture() -> Fixture {
    let tenant = |number: Tenant, id: &str, state| {
        let quotas = Quotas::UNLIMITED;
        Change::Tenant(TenantRow { number, id: id.into(), state, shard: ShardNumber(0), quotas })
    };
    let mut changes = vec![
        tenant(SYSTEM_TENANT, SYSTEM_TENANT_ID, TenantState::Active),
        tenant(ACME, "acme", TenantState::Active),
        tenant(UMBRELLA, "umbrella", TenantState::Active),
        tenant(SUSPENDED, "suspended", TenantState::Suspended),
        Change::SigningKeys(Arc::new(VerifyingKeys::new([("k1", SECRET)]))),
    ];
    let signer = TokenSigner::new("k1", SECRET);
    let mut keys = Vec::new();
    let mut add = |holder: Holder| {
        let slot = keys.len() as u32;
        let (tenant, role) = match holder {
            Holder::Acme(role) => (ACME, role),
            Holder::System(role) => (SYSTEM_TENANT, role),
            Holder::Bootstrap => (SYSTEM_TENANT, Role::Admin),
            Holder::Streaming => (ACME, Role::ServiceAccount),
            Holder::Suspended => (SUSPENDED, Role::Admin),
            _ => (ACME, Role::Admin),
        };
        let id = TokenId::random();
        let subject = Subject {
            name: "key:1",
            tenant_id: "acme",
            role,
            slot,
            generation: 1,
            issued_at: Micros(0),
            expires_at: None,
        };
        let token = signer.mint(&subject, &id);
        let (kind, text, proof) = match holder {
            Holder::Bootstrap => (CredentialKind::Bootstrap, BOOTSTRAP.to_owned(), Secret::new(BOOTSTRAP).digest()),
            Holder::Streaming => (CredentialKind::Streaming, STREAMING.to_owned(), Secret::new(STREAMING).digest()),
            Holder::Malformed => (CredentialKind::Jwt, token[..token.len() - 2].to_owned(), id.proof()),
            Holder::Forged => {
                let forger = TokenSigner::new("k1", b"another secret of the same length");
                (CredentialKind::Jwt, forger.mint(&subject, &id), id.proof())
            }
            Holder::Programmatic | Holder::ReadingOnly => {
                let key = random_key();
                (CredentialKind::Programmatic, key.expose().to_owned(), key.digest())
            }
            Holder::Nobody => (CredentialKind::Jwt, String::new(), id.proof()),
            _ => (CredentialKind::Jwt, token, id.proof()),
        };
        let state = if holder == Holder::Revoked { CredentialState::Revoked } else { CredentialState::Active };
        let expires_at = (holder == Holder::Expired).then_some(NOW);
        let scope = if holder == Holder::ReadingOnly { Permissions::of(&[Permission::Read]) } else { Permissions::ALL };
        let row = CredentialRow { slot, generation: 1, key: 1, tenant, role, kind, scope, state, expires_at, proof };
        changes.push(Change::Credential(row));
        keys.push((holder, text));
    };
    Role::ALL.into_iter().map(Holder::Acme).for_each(&mut add);
    Role::ALL.into_iter().map(Holder::System).for_each(&mut add);
    [
        Holder::Bootstrap,
        Holder::Streaming,
        Holder::Programmatic,
        Holder::ReadingOnly,
        Holder::Expired,
        Holder::Revoked,
        Holder::Suspended,
        Holder::Malformed,
        Holder::Forged,
        Holder::Nobody,
    ]
    .into_iter()
    .for_each(&mut add);
    Fixture { credentials: Credentials::new(1, &Delta { epoch: 1, changes }), keys }
}

fn ask(credentials: &mut Credentials, method: &str, path: &str, key: &str, more: &str) -> Decided {
    ask_from("127.0.0.1".parse().unwrap(), credentials, method, path, key, more)
}

fn ask_from(peer: IpAddr, credentials: &mut Credentials, method: &str, path: &str, key: &str, more: &str) -> Decided {
    let auth = if key.is_empty() { String::new() } else { format!("Authorization: Bearer {key}\r\n") };
    let text = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{auth}{more}\r\n");
    let (head, _) = parse_head(text.as_bytes(), &HeadLimits::SERVER).unwrap().unwrap();
    admit(&head, peer, credentials, NOW)
}

/// The status with which a request is refused; nothing if it is let in.
fn refused_with(decided: &Decided) -> Option<u16> {
    decided.outcome.as_ref().err().map(|problem| problem.code().status())
}

fn path_of(route: &Route) -> String {
    route.path.replace("{}", "umbrella")
}

#[test]
fn every_route_admits_exactly_those_who_may() {
    let mut fixture = fixture();
    for route in &ROUTES {
        for (holder, key) in &fixture.keys {
            for (header, named) in [
                ("", None),
                ("X-Tenant-ID: acme\r\n", Some(ACME)),
                ("X-Workspace-ID: ws-1\r\n", Some(ACME)),
                ("X-Tenant-ID: umbrella\r\n", Some(UMBRELLA)),
                ("X-Tenant-ID: nobody\r\n", None),
                ("X-Tenant-ID: suspended\r\n", Some(SUSPENDED)),
                ("X-Tenant-ID: system\r\n", Some(SYSTEM_TENANT)),
            ] {
                let own = if matches!(holder, Holder::System(_) | Holder::Bootstrap) { SYSTEM_TENANT } else { ACME };
                let is_own = header.is_empty() || named == Some(own);
                let expected = match route.need {
                    Need::Nothing => None,
                    Need::OwnMachine | Need::Monitor if *holder == Holder::Nobody => None,
                    _ if !holder.is_good() => Some(401),
                    Need::OwnMachine => (!holder.is_operator()).then_some(403),
                    Need::Monitor => {
                        let may = own == SYSTEM_TENANT && holder.may(Permission::Metrics);
                        (!may).then_some(403)
                    }
                    Need::Credential if holder.is_operator() || is_own => None,
                    Need::Tenant(permission) | Need::Scope(permission) | Need::Operator(permission)
                        if !holder.may(permission) =>
                    {
                        Some(403)
                    }
                    _ if !holder.is_operator() && !is_own => Some(403),
                    Need::Credential => unreachable!("decided above"),
                    Need::Operator(_) if holder.is_operator() => None,
                    Need::Operator(_) => Some(403),
                    Need::Scope(_) | Need::Tenant(_) if holder.is_operator() => match (named, header) {
                        (None, "") if matches!(route.need, Need::Scope(_)) => None,
                        (None, "") => Some(400),
                        (None, _) => Some(404),
                        (Some(SUSPENDED), _) if matches!(route.need, Need::Tenant(_)) => Some(403),
                        (Some(SYSTEM_TENANT), _) if matches!(route.need, Need::Tenant(_)) => Some(403),
                        (Some(_), _) => None,
                    },
                    Need::Scope(_) => None,
                    // The system tenant has no events.
                    Need::Tenant(_) => (own == SYSTEM_TENANT).then_some(403),
                };
                let what = format!("{} {} by {holder:?} with {header:?}", route.method.as_str(), route.path);
                let decided = ask(&mut fixture.credentials, route.method.as_str(), &path_of(route), key, header);
                assert_eq!(refused_with(&decided), expected, "{what}");
                // Refused or not, it is a request of whoever has the credential.
                let counts_for = (route.need != Need::Nothing && holder.is_good()).then_some(own);
                assert_eq!(decided.tenant, counts_for, "{what}");
                if let Ok((_, admitted)) = &decided.outcome {
                    assert_eq!(admitted.endpoint, route.endpoint, "{what}");
                    match &admitted.who {
                        Who::Anyone => {
                            assert!(matches!(route.need, Need::Nothing | Need::OwnMachine | Need::Monitor), "{what}");
                        }
                        Who::Tenant(access) => assert_eq!(access.tenant, named.unwrap_or(own), "{what}"),
                        Who::Caller(caller) => match route.need {
                            Need::Scope(_) if holder.is_operator() => assert_eq!(caller.tenant, named, "{what}"),
                            Need::Scope(_) | Need::Credential => assert_eq!(caller.tenant, Some(own), "{what}"),
                            _ => assert_eq!(caller.tenant, None, "{what}"),
                        },
                    }
                }
                // Denials and failed credentials are noticed, and nothing else that is refused.
                let kind = decided.noticed.map(|noticed| noticed.kind);
                match expected {
                    Some(401) if *holder != Holder::Nobody => {
                        assert_eq!(kind, Some(NoteKind::AuthenticationFailed), "{what}");
                    }
                    Some(403) if !holder.is_operator() && own == ACME => {
                        assert_eq!(kind, Some(NoteKind::PermissionDenied), "{what}");
                    }
                    _ => assert_ne!(kind, Some(NoteKind::AuthenticationFailed), "{what}"),
                }
            }
        }
    }
}

#[test]
fn what_is_wrong_with_a_credential_does_not_show() {
    let mut fixture = fixture();
    for route in ROUTES.iter().filter(|route| route.need != Need::Nothing) {
        let is_bad = |holder: &Holder| {
            !holder.is_good() && (!matches!(route.need, Need::OwnMachine | Need::Monitor) || *holder != Holder::Nobody)
        };
        for (holder, key) in fixture.keys.iter().filter(|(holder, _)| is_bad(holder)) {
            let decided = ask(&mut fixture.credentials, route.method.as_str(), &path_of(route), key, "");
            let problem = decided.outcome.err().unwrap();
            let expected = match holder {
                Holder::Nobody => "a key is needed and none was sent",
                _ => "the key is not known, or not good any more",
            };
            assert_eq!((problem.code(), problem.message()), (ErrorCode::Unauthorized, expected), "{holder:?}");
        }
    }
}

#[test]
fn without_a_key_a_set_up_or_a_look_at_all_numbers_comes_from_this_machine_and_through_nobody() {
    let mut fixture = fixture();
    let (_, bootstrap) = fixture.keys.iter().find(|(holder, _)| *holder == Holder::Bootstrap).unwrap();
    let mut check = |peer: &str, key: &str, more: &str, expected: Option<u16>| {
        let peer = peer.parse().unwrap();
        for (method, path) in [("POST", "/api/v1/auth/setup"), ("GET", "/metrics")] {
            let decided = ask_from(peer, &mut fixture.credentials, method, path, key, more);
            assert_eq!(refused_with(&decided), expected, "{path} {peer} {more}");
        }
    };
    for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        check(local, "", "", None);
        for name in ASKS_FOR_ANOTHER {
            check(local, "", &format!("{name}: 127.0.0.1\r\n"), Some(401));
            check(local, "", &format!("{}: \r\n", name.to_lowercase()), Some(401));
            check(local, bootstrap, &format!("{name}: 127.0.0.1\r\n"), None);
        }
        check(local, "nonsense", "", Some(401));
    }
    for remote in ["10.0.0.7", "192.0.2.1", "2001:db8::1", "::ffff:10.0.0.7", "0.0.0.0"] {
        check(remote, "", "", Some(401));
        check(remote, "nonsense", "", Some(401));
        check(remote, bootstrap, "", None);
    }
}

#[test]
fn a_path_answers_to_its_methods_and_to_no_others() {
    let mut fixture = fixture();
    let (_, key) = &fixture.keys[0];
    for route in &ROUTES {
        let path = path_of(route);
        let at_path = || ROUTES.iter().filter(|other| other.path == route.path);
        let options = ask(&mut fixture.credentials, "OPTIONS", &path, "", "");
        let (_, admitted) = options.outcome.unwrap();
        assert_eq!(admitted.endpoint, Endpoint::Methods(route.allow));
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let answers = at_path()
                .any(|other| other.method.as_str() == method || (method == "HEAD" && other.method == Method::Get));
            assert_eq!(route.allow.split(", ").any(|allowed| allowed == method), answers, "{method} {path}");
            let decided = ask(&mut fixture.credentials, method, &path, key, "");
            assert_eq!(refused_with(&decided) == Some(405), !answers, "{method} {path}");
        }
    }
}

#[test]
fn a_segment_is_one_segment_and_is_decoded_once() {
    let mut fixture = fixture();
    let (_, key) = fixture.keys.iter().find(|(holder, _)| *holder == Holder::Bootstrap).unwrap();
    let mut target = |path: &str| {
        let decided = ask(&mut fixture.credentials, "GET", path, key, "");
        decided.outcome.map(|(_, admitted)| admitted.target.unwrap().into_string()).map_err(|problem| problem.code())
    };
    assert_eq!(target("/api/v1/tenants/acme").unwrap(), "acme");
    assert_eq!(target("/api/v1/tenants/a%20b+%C3%A9").unwrap(), "a b+é");
    assert_eq!(target("/api/v1/tenants/%2561").unwrap(), "%61");
    assert_eq!(target("/api/v1/tenants/acme/stats").unwrap(), "acme");
    for absent in ["/api/v1/tenants/", "/api/v1/tenants/a/b", "/api/v1/tenants//stats", "/api/v1/tenants/a/stats/"] {
        assert_eq!(target(absent), Err(ErrorCode::NotFound), "{absent}");
    }
    for wrong in ["/api/v1/tenants/%ff", "/api/v1/tenants/%c3/stats"] {
        assert!(target(wrong).is_err(), "{wrong}");
    }
}
