//! Streaming keys over the API: the same key file that people edit, one line at a time, and the catalog in step with it.
//! The file comes first: what a crash leaves between the two is made good by the next reading of the file.
//! Must never: show a key after its making, or let one tenant's names be felt by another.

use std::path::PathBuf;

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::delta::{CredentialKind, SYSTEM_TENANT};
use crate::auth::role::{Permission, Role};
use crate::auth::secret::{Digest, Secret};
use crate::catalog::command::{Answer, Authority, Call, Done, Refused, Whose};
use crate::catalog::control::Control;
use crate::catalog::keys_file::FileKey;
use crate::catalog::keys_file_edit::{self, EditError, Which};
use crate::catalog::log::CatalogLog;
use crate::catalog::records::{Body, KeyRevoked};
use crate::catalog::state::KeyEntry;

#[derive(Debug, Clone)]
pub enum AskStreaming {
    Make {
        whose: Whose,
        name: String,
    },
    List {
        whose: Whose,
    },
    /// By its number, or by its name where that is said.
    Delete {
        whose: Whose,
        number: Option<u64>,
        name: String,
    },
}

#[derive(Debug, Clone)]
pub enum DoneStreaming {
    Made { key: Secret, view: StreamingView },
    List(Vec<StreamingView>),
}

#[derive(Debug, Clone)]
pub struct StreamingView {
    pub number: u64,
    pub name: String,
    pub workspace: Tenant,
    pub created_at: Micros,
}

impl<L: CatalogLog> Control<L> {
    pub(super) fn streaming(&mut self, by: Authority, call: &Call, ask: &AskStreaming) -> Answer {
        by.needs(Permission::Admin)?;
        match ask {
            AskStreaming::Make { whose, name } => {
                let tenant = self.streaming_target(by, whose)?;
                self.make_streaming_key(by, call, tenant, name)
            }
            AskStreaming::List { whose } => {
                let tenant = self.streaming_target(by, whose)?;
                let keys = self.state().keys_of(tenant, CredentialKind::Streaming);
                Ok(Done::Streaming(DoneStreaming::List(keys.map(view).collect())))
            }
            AskStreaming::Delete { whose, number, name } => {
                let tenant = self.streaming_target(by, whose)?;
                self.delete_streaming_key(by, call, tenant, *number, name)
            }
        }
    }

    /// The system tenant has no events, and nobody writes any to it.
    fn streaming_target(&self, by: Authority, whose: &Whose) -> Result<Tenant, Refused> {
        match self.target(by, whose)? {
            SYSTEM_TENANT => Err(Refused::NoTenant),
            tenant => Ok(tenant),
        }
    }

    fn make_streaming_key(&mut self, by: Authority, call: &Call, tenant: Tenant, name: &str) -> Answer {
        let path = self.keys_file_path()?;
        self.check_room(tenant, CredentialKind::Streaming)?;
        // Before the file is changed, not between the file and the catalog.
        self.admit_change(by, call)?;
        let secret = Secret::random_streaming_key();
        let key = FileKey { secret: secret.clone(), tenant, name: name.to_owned() };
        keys_file_edit::add(&path, &key).map_err(refused)?;
        let digest = secret.digest();
        let new = self.new_key(tenant.0, CredentialKind::Streaming, Role::ServiceAccount, name, digest)?;
        let number = new.key;
        self.commit_as(by, call, Body::KeyMinted(new))?;
        let entry = self.state().key(number).expect("it was put there a moment ago");
        Ok(Done::Streaming(DoneStreaming::Made { key: secret, view: view(entry) }))
    }

    fn delete_streaming_key(
        &mut self,
        by: Authority,
        call: &Call,
        tenant: Tenant,
        number: Option<u64>,
        name: &str,
    ) -> Answer {
        let path = self.keys_file_path()?;
        let (key, proof) = self.streaming_key(tenant, number, name)?;
        let in_file = keys_file_edit::list(&path).map_err(refused)?;
        if let Some(line) = in_file.into_iter().find(|line| line.secret.digest() == proof) {
            match keys_file_edit::delete(&path, Which::Key(&line.secret)) {
                // Somebody was quicker, with the same in mind.
                Ok(_) | Err(EditError::NotFound | EditError::Missing) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        self.commit_as(by, call, Body::KeyRevoked(KeyRevoked { key }))?;
        Ok(Done::Revoked)
    }

    /// The number and the digest of the one that is meant.
    fn streaming_key(&self, tenant: Tenant, number: Option<u64>, name: &str) -> Result<(u64, Digest), Refused> {
        let keys = || self.state().keys_of(tenant, CredentialKind::Streaming);
        let by_number = keys().find(|entry| Some(entry.made.key) == number);
        let mut by_name = keys().filter(|entry| !name.is_empty() && entry.made.name == name);
        let entry = match (by_number, by_name.next()) {
            (Some(entry), _) => entry,
            (None, Some(_)) if by_name.next().is_some() => return Err(Refused::AmbiguousKey),
            (None, Some(entry)) => entry,
            (None, None) => {
                let is_others = number
                    .and_then(|number| self.state().key(number))
                    .is_some_and(|entry| entry.made.kind == CredentialKind::Streaming && entry.made.tenant != tenant.0);
                return Err(if is_others { Refused::OthersKey } else { Refused::NoKey });
            }
        };
        Ok((entry.made.key, entry.made.proof))
    }

    fn keys_file_path(&self) -> Result<PathBuf, Refused> {
        self.keys_file.clone().ok_or(Refused::KeysFile)
    }
}

fn view(entry: &KeyEntry) -> StreamingView {
    StreamingView {
        number: entry.made.key,
        name: entry.made.name.clone(),
        workspace: Tenant(entry.made.tenant),
        created_at: entry.created_at,
    }
}

/// What is wrong with the file is for the operator's eyes: its lines are not one tenant's.
fn refused(error: EditError) -> Refused {
    match error {
        EditError::NameTaken | EditError::KeyTaken => Refused::KeyExists,
        EditError::Unwritable => Refused::KeyName,
        EditError::Missing
        | EditError::File(_)
        | EditError::Full
        | EditError::NotFound
        | EditError::Ambiguous(_)
        | EditError::Write(_) => {
            tracing::error!("a change of a streaming key was refused: {error}");
            Refused::KeysFile
        }
    }
}
