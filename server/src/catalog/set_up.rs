//! What must be there before the first request: a signing secret, a bootstrap key, the tenant `default`, its
//! streaming key, and the key file's keys. Runs at every start, before any listener; each step is done once, and a crash
//! between two of them leaves the rest for the next start.

use std::fmt;
use std::path::{Path, PathBuf};

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::delta::{CredentialKind, CredentialState, SYSTEM_TENANT, TenantState};
use crate::auth::role::Role;
use crate::auth::secret::Secret;
use crate::auth::secret_file::{self, NamedSecret, SecretFileError};
use crate::catalog::control::{ChangeError, Control};
use crate::catalog::keys_file::{self, FileKey, KeysFileError};
use crate::catalog::log::CatalogLog;
use crate::catalog::records::{Body, KeyRevoked, Origin, SigningSecretCreated, SigningSecretRetired, TenantCreated};
use crate::catalog::tiers::Tier;

const DEFAULT_TENANT: Tenant = Tenant(1);
const DEFAULT_TENANT_ID: &str = "default";
const BOOTSTRAP_NAME: &str = "bootstrap";
const KEYS_FILE_HEAD: &str =
    "# Streaming keys, one a line: HEX:WORKSPACE[:NAME]. Whoever reads this file can write events.\n";

#[derive(Debug, Clone, Copy)]
pub struct SetUp<'a> {
    pub jwt_secret_file: &'a Path,
    pub keys_file: &'a Path,
    /// From the configuration. Without one, the key that is there stays, and the first run makes one.
    pub bootstrap_key: Option<&'a Secret>,
}

/// What a start made, and nobody has seen yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    pub tenant: bool,
    pub jwt_secret: bool,
    pub streaming_key: Option<Secret>,
    pub bootstrap_key: Option<Secret>,
    /// The key file can be read by others than its owner.
    pub keys_file_open: bool,
}

#[derive(Debug)]
pub enum SetUpError {
    Secret(SecretFileError),
    Keys {
        path: PathBuf,
        error: KeysFileError,
    },
    /// Keys came from it, and it is gone.
    KeysFileMissing(PathBuf),
    UnknownWorkspace {
        path: PathBuf,
        /// Counted from 1; `None` if the file has changed since.
        line: Option<usize>,
        workspace: u32,
    },
    WeakBootstrapKey,
    /// The file that is to hold the bootstrap key is not there.
    BootstrapFileMissing(PathBuf),
    Change(ChangeError),
}

impl fmt::Display for SetUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetUpError::Secret(error) => error.fmt(f),
            SetUpError::Keys { path, error } => write!(f, "{}: {error}", path.display()),
            SetUpError::KeysFileMissing(path) => write!(
                f,
                "{}: the key file is gone: restore it, or put an empty one there to revoke every streaming key",
                path.display()
            ),
            SetUpError::UnknownWorkspace { path, line, workspace } => {
                write!(f, "{}: ", path.display())?;
                if let Some(line) = line {
                    write!(f, "line {line}: ")?;
                }
                write!(f, "there is no workspace {workspace}")
            }
            SetUpError::WeakBootstrapKey => write!(f, "a bootstrap key has 16 to 256 visible ASCII characters"),
            SetUpError::BootstrapFileMissing(path) => {
                write!(f, "{}: the file of the bootstrap key is not there", path.display())
            }
            SetUpError::Change(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SetUpError {}

impl From<ChangeError> for SetUpError {
    fn from(error: ChangeError) -> SetUpError {
        SetUpError::Change(error)
    }
}

/// How many keys a reading of the key file added and revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeysChanged {
    pub added: usize,
    pub revoked: usize,
}

impl<L: CatalogLog> Control<L> {
    pub fn set_up(&mut self, set_up: &SetUp<'_>, at: Micros) -> Result<Made, SetUpError> {
        let jwt_secret = self.set_up_signing(set_up.jwt_secret_file, at)?;
        let bootstrap_key = self.set_up_bootstrap(set_up.bootstrap_key, at)?;
        let tenant = self.set_up_default_tenant(at)?;
        // What cannot be looked at is not new: reading it below says why.
        let streaming_key = match set_up.keys_file.try_exists() {
            Ok(false) if self.streaming_keys().next().is_some() => {
                return Err(SetUpError::KeysFileMissing(set_up.keys_file.into()));
            }
            Ok(false) => Some(make_keys_file(set_up.keys_file)?),
            Ok(true) | Err(_) => None,
        };
        let wrong = |error| SetUpError::Keys { path: set_up.keys_file.into(), error };
        let missing = || SetUpError::KeysFileMissing(set_up.keys_file.into());
        let (keys, keys_file_open) = keys_file::load(set_up.keys_file).map_err(wrong)?.ok_or_else(missing)?;
        self.match_keys_file(set_up.keys_file, &keys, at)?;
        self.keys_file = Some(set_up.keys_file.into());
        Ok(Made { tenant, jwt_secret, streaming_key, bootstrap_key, keys_file_open })
    }

    /// Brings the catalog's streaming keys to what the key file holds. Nothing is changed if one of its keys cannot be.
    pub fn match_keys_file(&mut self, path: &Path, keys: &[FileKey], at: Micros) -> Result<KeysChanged, SetUpError> {
        if let Some(key) = keys.iter().find(|key| !self.state().has_had_tenant(key.tenant)) {
            let line = keys_file::line_of(path, key);
            return Err(SetUpError::UnknownWorkspace { path: path.into(), line, workspace: key.tenant.0 });
        }
        // The file may still name a workspace that is deleted. Its keys open nothing, and stop nobody.
        let is_there =
            |key: &&FileKey| self.state().tenant(key.tenant).is_some_and(|entry| entry.state != TenantState::Deleting);
        let keys: Vec<&FileKey> = keys.iter().filter(is_there).collect();
        let in_file: std::collections::HashMap<_, _> = keys.iter().map(|key| (key.secret.digest(), *key)).collect();
        let live: std::collections::HashMap<_, _> =
            self.streaming_keys().map(|(number, tenant, proof)| (proof, (number, tenant))).collect();
        let mut changed = KeysChanged::default();
        // Revoked first: a key that moved to another tenant is taken from the one before it is given to the other.
        let mut gone: Vec<u64> = live
            .iter()
            .filter(|(proof, (_, tenant))| in_file.get(*proof).is_none_or(|key| key.tenant.0 != *tenant))
            .map(|(_, (number, _))| *number)
            .collect();
        gone.sort_unstable();
        for key in gone {
            self.commit(Body::KeyRevoked(KeyRevoked { key }), Origin::server(), at)?;
            changed.revoked += 1;
        }
        for key in keys {
            let proof = key.secret.digest();
            if live.get(&proof).is_some_and(|(_, tenant)| *tenant == key.tenant.0) {
                continue;
            }
            let new = self.new_key(key.tenant.0, CredentialKind::Streaming, Role::ServiceAccount, &key.name, proof)?;
            self.commit(Body::KeyMinted(new), Origin::server(), at)?;
            changed.added += 1;
        }
        Ok(changed)
    }

    /// Brings the catalog's signing secrets to what the file holds. Tokens under one that has gone from it end.
    pub fn set_up_signing(&mut self, path: &Path, at: Micros) -> Result<bool, SetUpError> {
        let (secrets, is_new) = match secret_file::load(path).map_err(SetUpError::Secret)? {
            Some(secrets) => (secrets, false),
            // Making another would silently end every key that was signed with the first.
            None if !self.state().kids().is_empty() => {
                return Err(SetUpError::Secret(SecretFileError::Missing(path.into())));
            }
            None => (vec![secret_file::create(path).map_err(SetUpError::Secret)?], true),
        };
        self.match_signing_secrets(&secrets, at)?;
        Ok(is_new)
    }

    /// The same for those that somebody has read already, the one that signs first.
    pub(super) fn match_signing_secrets(&mut self, secrets: &[NamedSecret], at: Micros) -> Result<(), ChangeError> {
        let is_there = |kid: &str| secrets.iter().any(|named| named.kid == kid);
        let gone: Vec<String> = self.state().kids().iter().filter(|kid| !is_there(kid)).cloned().collect();
        for kid in gone {
            self.commit(Body::SigningSecretRetired(SigningSecretRetired { kid }), Origin::server(), at)?;
        }
        // The oldest first, as they came.
        for named in secrets.iter().rev() {
            if !self.state().kids().contains(&named.kid) {
                let body = SigningSecretCreated { kid: named.kid.clone() };
                self.commit(Body::SigningSecretCreated(body), Origin::server(), at)?;
            }
        }
        self.sign_with(secrets);
        Ok(())
    }

    /// Another key than the one that is there replaces it.
    pub fn set_up_bootstrap(&mut self, configured: Option<&Secret>, at: Micros) -> Result<Option<Secret>, SetUpError> {
        if configured.is_some_and(|key| !key.is_acceptable_bootstrap_key()) {
            return Err(SetUpError::WeakBootstrapKey);
        }
        let current = self.state().bootstrap().map(|key| key.made.proof);
        let (key, is_made) = match (configured, current) {
            (Some(key), Some(proof)) if key.digest() == proof => return Ok(None),
            (Some(key), _) => (key.clone(), false),
            (None, Some(_)) => return Ok(None),
            (None, None) => (Secret::random_bootstrap_key(), true),
        };
        let new =
            self.new_key(SYSTEM_TENANT.0, CredentialKind::Bootstrap, Role::Admin, BOOTSTRAP_NAME, key.digest())?;
        self.commit(Body::BootstrapKeySet(new), Origin::server(), at)?;
        Ok(is_made.then_some(key))
    }

    pub(super) fn set_up_default_tenant(&mut self, at: Micros) -> Result<bool, SetUpError> {
        if self.state().has_had_tenant(DEFAULT_TENANT) {
            return Ok(false);
        }
        let body = TenantCreated {
            number: DEFAULT_TENANT.0,
            id: DEFAULT_TENANT_ID.to_owned(),
            name: DEFAULT_TENANT_ID.to_owned(),
            email: None,
            tier: Tier::Unlimited.name().to_owned(),
            events_quota: None,
            shard: self.least_loaded_shard(),
            key: None,
        };
        self.commit(Body::TenantCreated(body), Origin::server(), at)?;
        Ok(true)
    }

    fn streaming_keys(&self) -> impl Iterator<Item = (u64, u32, crate::auth::secret::Digest)> {
        let is_live = |state, kind| state == CredentialState::Active && kind == CredentialKind::Streaming;
        let keys = self.state().keys().filter(move |key| is_live(key.state, key.made.kind));
        keys.map(|key| (key.made.key, key.made.tenant, key.made.proof))
    }
}

fn make_keys_file(path: &Path) -> Result<Secret, SetUpError> {
    let secret = Secret::random_streaming_key();
    let key = FileKey { secret: secret.clone(), tenant: DEFAULT_TENANT, name: DEFAULT_TENANT_ID.to_owned() };
    let text = format!("{KEYS_FILE_HEAD}{}", keys_file::line(&key));
    secret_file::write_private(path, text.as_bytes())
        .map_err(|error| SetUpError::Keys { path: path.into(), error: KeysFileError::Io(error) })?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::credentials::{Credentials, Presented};
    use crate::catalog::control::ControlSettings;
    use crate::catalog::log::MemoryLog;
    use crate::catalog::records::TenantDeleted;

    struct Place {
        directory: tempfile::TempDir,
        log: MemoryLog,
    }

    impl Place {
        fn new() -> Place {
            Place { directory: tempfile::tempdir().unwrap(), log: MemoryLog::default() }
        }

        fn keys_file(&self) -> PathBuf {
            self.directory.path().join("apikeys.conf")
        }

        fn start(&mut self, bootstrap: Option<&str>) -> Result<(Made, Credentials), SetUpError> {
            let settings = ControlSettings { shard_count: 2, onboard_per_hour: 5 };
            let mut control = Control::open(self.log.clone(), settings).unwrap();
            let bootstrap = bootstrap.map(Secret::new);
            let set_up = SetUp {
                jwt_secret_file: &self.directory.path().join("jwt-secret"),
                keys_file: &self.keys_file(),
                bootstrap_key: bootstrap.as_ref(),
            };
            let made = control.set_up(&set_up, Micros(1));
            let credentials = Credentials::new(1, &control.snapshot());
            self.log = control.into_log();
            Ok((made?, credentials))
        }
    }

    fn opens(credentials: &mut Credentials, secret: &str) -> bool {
        credentials.authenticate(Presented::none().authorization(secret.as_bytes()), Micros(2)).is_ok()
    }

    #[test]
    fn the_first_start_makes_everything_and_the_second_nothing() {
        let mut place = Place::new();
        let (made, mut credentials) = place.start(None).unwrap();
        assert!(made.tenant && made.jwt_secret && !made.keys_file_open);
        let (streaming, bootstrap) = (made.streaming_key.unwrap(), made.bootstrap_key.unwrap());
        assert!(opens(&mut credentials, streaming.expose()) && opens(&mut credentials, bootstrap.expose()));
        assert_eq!(&*credentials.tenant_named("ws-1").unwrap().id, "default");
        let records = place.log.records.len();

        let (made, mut credentials) = place.start(None).unwrap();
        assert_eq!(made, Made::default());
        assert_eq!(place.log.records.len(), records);
        assert!(opens(&mut credentials, streaming.expose()) && opens(&mut credentials, bootstrap.expose()));
        // Nothing in the log opens anything.
        let log = place.log.records.concat();
        for secret in [streaming.expose(), bootstrap.expose()] {
            assert!(!log.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }

    #[test]
    fn a_crash_after_any_record_is_made_good_by_the_next_start() {
        let mut whole = Place::new();
        whole.start(Some("a-bootstrap-key-of-mine")).unwrap();
        for kept in 0..whole.log.records.len() {
            let mut place = Place::new();
            place.start(Some("a-bootstrap-key-of-mine")).unwrap();
            place.log.records.truncate(kept);
            let (_, mut credentials) = place.start(Some("a-bootstrap-key-of-mine")).unwrap();
            assert!(opens(&mut credentials, "a-bootstrap-key-of-mine"), "{kept}");
            let key = keys_file::load(&place.keys_file()).unwrap().unwrap().0.remove(0);
            assert!(opens(&mut credentials, key.secret.expose()), "{kept}");
        }
    }

    #[test]
    fn a_configured_bootstrap_key_replaces_the_old_one() {
        let mut place = Place::new();
        let (made, mut credentials) = place.start(Some("a-bootstrap-key-of-mine")).unwrap();
        assert_eq!(made.bootstrap_key, None);
        assert!(opens(&mut credentials, "a-bootstrap-key-of-mine"));
        let (_, mut credentials) = place.start(Some("another-bootstrap-key")).unwrap();
        assert!(!opens(&mut credentials, "a-bootstrap-key-of-mine"));
        assert!(opens(&mut credentials, "another-bootstrap-key"));
        let (made, mut credentials) = place.start(None).unwrap();
        assert!(opens(&mut credentials, "another-bootstrap-key") && made.bootstrap_key.is_none());
        assert!(matches!(place.start(Some("short")), Err(SetUpError::WeakBootstrapKey)));
    }

    #[test]
    fn the_key_file_decides_which_streaming_keys_live() {
        let mut place = Place::new();
        let (made, _) = place.start(None).unwrap();
        let first = made.streaming_key.unwrap();
        let second = "ff".repeat(16);
        std::fs::write(place.keys_file(), format!("{second}:1:hand made\n")).unwrap();
        let (_, mut credentials) = place.start(None).unwrap();
        assert!(!opens(&mut credentials, first.expose()) && opens(&mut credentials, &second));

        std::fs::write(place.keys_file(), format!("# keys\n\n{second}:1\n{}:9:x\n", "EE".repeat(16))).unwrap();
        let error = place.start(None).err().unwrap();
        assert!(matches!(error, SetUpError::UnknownWorkspace { workspace: 9, line: Some(4), .. }), "{error:?}");
        let path = place.keys_file();
        assert_eq!(error.to_string(), format!("{}: line 4: there is no workspace 9", path.display()));
        std::fs::write(place.keys_file(), "nonsense").unwrap();
        assert!(matches!(place.start(None), Err(SetUpError::Keys { .. })));
        std::fs::remove_file(place.keys_file()).unwrap();
        assert!(matches!(place.start(None), Err(SetUpError::KeysFileMissing(_))));
        std::fs::write(place.keys_file(), "").unwrap();
        let (_, mut credentials) = place.start(None).unwrap();
        assert!(!opens(&mut credentials, &second));
    }

    /// The first workspace and the one that syslog is for are as mortal as others.
    #[test]
    fn a_start_makes_no_tenant_again_and_stumbles_over_none_that_was_erased() {
        let mut place = Place::new();
        place.start(None).unwrap();
        let settings = ControlSettings { shard_count: 2, onboard_per_hour: 0 };
        let mut control = Control::open(place.log.clone(), settings).unwrap();
        let deleted = TenantDeleted { tenant: DEFAULT_TENANT.0 };
        control.commit(Body::TenantDeleted(deleted), Origin::server(), Micros(2)).unwrap();
        assert!(control.tenant_erased(DEFAULT_TENANT, Micros(3)).unwrap());
        place.log = control.into_log();
        for _ in 0..2 {
            let (made, mut credentials) = place.start(None).unwrap();
            assert_eq!(made, Made::default());
            assert!(credentials.tenant_named("default").is_none());
            let key = keys_file::load(&place.keys_file()).unwrap().unwrap().0.remove(0);
            assert!(!opens(&mut credentials, key.secret.expose()));
        }
    }

    #[test]
    fn a_rotated_signing_secret_lets_old_keys_live_until_it_is_retired() {
        let mut place = Place::new();
        place.start(None).unwrap();
        let path = place.directory.path().join("jwt-secret");
        let mint = |place: &Place| {
            let settings = ControlSettings { shard_count: 2, onboard_per_hour: 0 };
            let mut control = Control::open(place.log.clone(), settings).unwrap();
            control.set_up_signing(&path, Micros(1)).unwrap();
            let email = crate::auth::tenant_id::Email::parse(&format!("a{}@x.com", place.log.records.len())).unwrap();
            let onboard =
                crate::catalog::control::Onboard::new(email, None, "::1".parse().unwrap(), "r".into(), Micros(1), 1);
            let key = control.onboard(&onboard.unwrap()).unwrap().api_key;
            (key.expose().to_owned(), control.into_log())
        };
        let (old, log) = mint(&place);
        place.log = log;
        secret_file::rotate(&path, secret_file::Old::Verify).unwrap();
        let (new, log) = mint(&place);
        place.log = log;
        assert_ne!(old.split('.').next(), new.split('.').next(), "each names the secret that signed it");
        let (_, mut credentials) = place.start(None).unwrap();
        assert!(opens(&mut credentials, &old) && opens(&mut credentials, &new));
        secret_file::retire(&path).unwrap();
        for _ in 0..2 {
            let (_, mut credentials) = place.start(None).unwrap();
            assert!(!opens(&mut credentials, &old) && opens(&mut credentials, &new));
        }
        let log = String::from_utf8(place.log.records.concat()).unwrap();
        assert!(log.contains("signing_secret_retired"));
        let secret = std::fs::read_to_string(&path).unwrap();
        assert!(!log.contains(secret.split_whitespace().last().unwrap()));
    }

    #[test]
    fn a_lost_signing_secret_is_not_replaced_in_silence() {
        let mut place = Place::new();
        place.start(None).unwrap();
        std::fs::remove_file(place.directory.path().join("jwt-secret")).unwrap();
        assert!(matches!(place.start(None), Err(SetUpError::Secret(SecretFileError::Missing(_)))));
    }
}
