//! What a catalog is asked in a simulated life: everything that changes it, by whoever may, on things that are there.

use ringlog_engine::ids::{Micros, Tenant};

use super::Violation;
use super::promises::{Holder, OneOf, PromisedTenant, Standing, TenantTerms, Token, Told};
use super::running::Running;
use super::world::World;
use crate::auth::delta::{CredentialKind, TenantState};
use crate::auth::role::{Permission, Role};
use crate::auth::secret::Secret;
use crate::auth::tenant_id::Email;
use crate::catalog::command::{Answer, Call, Command, Done, Minted, Refused, What, Whose};
use crate::catalog::control::{ChangeError, Onboard, OnboardError};
use crate::catalog::keys_file::FileKey;
use crate::catalog::log::CatalogError;
use crate::catalog::name::Name;
use crate::catalog::notes::{Note, NoteKind};
use crate::catalog::state::KeyEntry;
use crate::catalog::tiers::{Ceiling, Overrides, Tier, Unlimited};

mod people;

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

impl World {
    pub fn do_something(&mut self, running: &mut Running) -> Result<(), Violation> {
        self.report.commands += 1;
        match self.rng.below(100) {
            0..7 => self.create_tenant(running),
            7..12 => self.onboard(running),
            12..17 => self.change_tenant(running),
            17..22 => self.set_tenant_state(running),
            22..24 => self.delete_tenant(running),
            24..26 => self.erase_tenant(running),
            26..30 => self.set_quotas(running),
            30..44 => self.mint_key(running),
            44..52 => self.rotate_key(running),
            52..59 => self.revoke_key(running),
            59..62 => self.rotate_self(running),
            62..64 => self.revoke_self(running),
            64..66 => self.rotate_bootstrap(running),
            66..68 => self.rotate_signing(running),
            68..72 => self.edit_keys_file(running),
            72..78 => self.create_user(running),
            78..84 => self.log_in(running),
            84..88 => self.refresh(running),
            88 => self.log_out(running),
            89 => self.make_programmatic_key(running),
            90..92 => self.set_user_role(running),
            92 => self.delete_user(running),
            93 => self.revoke_programmatic_key(running),
            94 => self.make_programmatic_key(running),
            _ => self.take_note(running),
        }
    }

    // ----- tenants -----

    fn create_tenant(&mut self, running: &mut Running) -> Result<(), Violation> {
        let number = self.fresh_number();
        // What was erased has given its id back.
        let erased = self.promises.tenants.values().find(|tenant| tenant.is_erased()).map(|tenant| tenant.id.clone());
        let again = erased.filter(|_| self.rng.chance(1, 2));
        let is_again = again.is_some();
        let id = again.unwrap_or(format!("tenant-{number}"));
        let tier = self.tier();
        let what = What::CreateTenant { id: id.clone(), name: name(&id), tier };
        let (_, answer) = self.operate(running, what)?;
        if let Some(Done::Tenant(entry)) = answer {
            self.report.ids_given_again += u64::from(is_again);
            let terms =
                TenantTerms { state: TenantState::Active, name: id.clone(), tier, overrides: Overrides::default() };
            self.keep_tenant(entry.made.number, PromisedTenant::new(id, terms))?;
        }
        Ok(())
    }

    fn keep_tenant(&mut self, number: u32, tenant: PromisedTenant) -> Result<(), Violation> {
        match self.promises.tenants.insert(number, tenant) {
            Some(before) => Err(format!("the number {number} was that of {}", before.id)),
            None => Ok(()),
        }
    }

    fn onboard(&mut self, running: &mut Running) -> Result<(), Violation> {
        let email = Email::parse(&format!("u{}@x.com", self.fresh_number())).expect("an address");
        let request_id = self.request_id();
        let at = Micros(self.now);
        let source = [10, 0, 0, 7].into();
        let request = Onboard::new(email, None, source, request_id.clone(), at, 1).expect("a name");
        let answer = running.control.onboard(&request).map(Done::Onboarded).map_err(Refused::Onboard);
        let (_, answer) = self.hear(running, &request_id, answer)?;
        if let Some(Done::Onboarded(made)) = answer {
            let entry = running.control.state().tenant(made.tenant).ok_or("a tenant is not there that onboarded")?;
            let terms = TenantTerms {
                state: TenantState::Active,
                name: entry.made.name.clone(),
                tier: Tier::Free,
                overrides: Overrides::default(),
            };
            self.keep_tenant(made.tenant.0, PromisedTenant::new(made.tenant_id, terms))?;
            let name = "onboard".to_owned();
            self.keep_key(running, made.tenant.0, name, Role::Developer, &made.api_key, None);
        }
        Ok(())
    }

    fn change_tenant(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some((number, id)) = self.some_tenant() else { return Ok(()) };
        let called = self.rng.chance(1, 2).then(|| format!("name {}", self.rng.below(100)));
        let tier = self.rng.chance(1, 2).then(|| self.tier());
        let what = What::ChangeTenant { named: id, name: called.as_deref().map(name), tier };
        let (told, _) = self.operate(running, what)?;
        self.change_terms(number, told, |terms| {
            terms.name = called.clone().unwrap_or(terms.name.clone());
            terms.tier = tier.unwrap_or(terms.tier);
        });
        Ok(())
    }

    fn set_tenant_state(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some((number, named)) = self.some_tenant() else { return Ok(()) };
        // Most of them serve, or little else would happen.
        let state = if self.rng.chance(1, 3) { TenantState::Suspended } else { TenantState::Active };
        let (told, _) = self.operate(running, What::SetTenantState { named, state })?;
        self.change_terms(number, told, |terms| terms.state = state);
        Ok(())
    }

    fn delete_tenant(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some((number, id)) = self.some_tenant().filter(|(number, _)| *number != 1) else { return Ok(()) };
        let (told, _) = self.operate(running, What::DeleteTenant { named: id.clone(), confirm: id })?;
        self.change_terms(number, told, |terms| terms.state = TenantState::Deleting);
        Ok(())
    }

    /// The shard of a deleted tenant says that nothing of it is left. Mostly; once in a while it says so of one that is not
    /// being deleted, or again, and then it must be no change.
    fn erase_tenant(&mut self, running: &mut Running) -> Result<(), Violation> {
        let is_deleting = |(_, tenant): &(&u32, &PromisedTenant)| tenant.state() == Some(TenantState::Deleting);
        let deleting = self.promises.tenants.iter().find(is_deleting).map(|(number, _)| *number);
        let any = self.rng.index(self.promises.tenants.len().max(1)) as u32 + 1;
        let number = deleting.filter(|_| self.rng.chance(7, 8)).unwrap_or(any);
        let state = self.promises.tenants.get(&number).and_then(PromisedTenant::state);
        let outcome = running.control.tenant_erased(Tenant(number), Micros(self.now));
        let records = self.take_attempts(running)?;
        running.publish();
        let told = match &outcome {
            _ if running.engine().is_dead() => Told::Unknown,
            Ok(true) if records.len() == 1 => Told::Done,
            Ok(false) if records.is_empty() => Told::Refused,
            Ok(_) => return Err(format!("of tenant {number} it is said {outcome:?}, with {records:?}")),
            Err(ChangeError::Log(CatalogError::Full)) => Told::Refused,
            Err(_) => Told::Unknown,
        };
        if told == Told::Done && state != Some(TenantState::Deleting) {
            return Err(format!("tenant {number} is erased, and was {state:?}"));
        }
        if let Some(tenant) = self.promises.tenants.get_mut(&number).filter(|_| outcome.as_ref().ok() != Some(&false)) {
            self.report.tenants_erased += u64::from(told == Told::Done);
            tenant.terms.change(None, told);
        }
        Ok(())
    }

    fn set_quotas(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some((number, named)) = self.some_tenant() else { return Ok(()) };
        let mut ceiling = || match self.rng.below(3) {
            0 => None,
            1 => Some(Ceiling::At(self.rng.below(1_000_000))),
            _ => Some(Ceiling::None(Unlimited::Unlimited)),
        };
        let overrides =
            Overrides { events_per_month: ceiling(), stored_bytes: ceiling(), requests_per_second: ceiling() };
        let (told, _) = self.operate(running, What::SetQuotas { named, overrides })?;
        self.change_terms(number, told, |terms| terms.overrides = overrides);
        Ok(())
    }

    // ----- keys -----

    fn mint_key(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some((number, id)) = self.some_tenant() else { return Ok(()) };
        let called = format!("key-{}", self.rng.below(6));
        let role = Role::ALL[self.rng.index(Role::ALL.len())];
        let expires_in_days = self.rng.chance(1, 3).then(|| 1 + self.rng.below(3) as u32);
        let what = What::MintKey { whose: named(&id), name: name(&called), role, expires_in_days };
        let (_, answer) = self.operate_for(running, number, what)?;
        if let Some(Done::Minted(minted)) = answer {
            let asked = expires_in_days.map(|days| self.now + i64::from(days) * DAY_US);
            // Else its giver's, which the answer says.
            let expires_at = asked.or(minted.view.expires_at.map(|at| at.0));
            self.keep_key(running, number, called, role, &minted.api_key, expires_at);
        }
        Ok(())
    }

    fn rotate_key(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(old) = self.some_token(CredentialKind::Jwt) else { return Ok(()) };
        let (tenant, called) = (self.promises.tokens[old].tenant, self.promises.tokens[old].name.clone());
        let id = self.promises.tenants[&tenant].id.clone();
        let grace_seconds = self.grace_seconds();
        let what = What::RotateKey { whose: named(&id), name: called, grace_seconds };
        // Of two of a name, the one is rotated that has not been.
        let rotated = self.current_key(running, old);
        let (told, answer) = self.operate_for(running, tenant, what)?;
        self.rotated(running, rotated, grace_seconds, told, answer);
        Ok(())
    }

    fn rotate_self(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(old) = self.some_token(CredentialKind::Jwt) else { return Ok(()) };
        let grace_seconds = self.grace_seconds();
        let by = self.promises.tokens[old].text.clone();
        let (told, answer) = self.command(running, &by, What::RotateSelf { grace_seconds })?;
        self.rotated(running, Some(old), grace_seconds, told, answer);
        Ok(())
    }

    fn rotated(&mut self, running: &Running, old: Option<usize>, grace_seconds: u32, told: Told, answer: Option<Done>) {
        let Some(old) = old else { return };
        let now = self.now;
        self.promises.tokens[old].standing.change_each(told, |standing| {
            if let Standing::Until(ends_at) = *standing {
                let graced = now + i64::from(grace_seconds) * SECOND_US;
                let until = Standing::Until(Some(ends_at.map_or(graced, |ends_at| ends_at.min(graced))));
                *standing = if grace_seconds == 0 { Standing::Ended } else { until };
            }
        });
        if let Some(Done::Minted(Minted { api_key, view, .. })) = answer {
            let (tenant, name) = (self.promises.tokens[old].tenant, self.promises.tokens[old].name.clone());
            self.keep_key(running, tenant, name, view.role, &api_key, view.expires_at.map(|at| at.0));
        }
    }

    fn revoke_key(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(key) = self.some_token(CredentialKind::Jwt) else { return Ok(()) };
        let (tenant, called) = (self.promises.tokens[key].tenant, self.promises.tokens[key].name.clone());
        let id = self.promises.tenants[&tenant].id.clone();
        let what = What::RevokeKey { whose: named(&id), name: called.clone() };
        let (told, answer) = self.operate_for(running, tenant, what)?;
        let is_of_name =
            |token: &&mut Token| (token.kind, token.tenant, &token.name) == (CredentialKind::Jwt, tenant, &called);
        for token in self.promises.tokens.iter_mut().filter(is_of_name) {
            token.standing.change(Standing::Ended, told);
            if answer.is_some() && running.who(&token.text, Micros(self.now)).is_some() {
                return Err(format!("{called} of tenant {tenant} is revoked, and opens"));
            }
        }
        Ok(())
    }

    fn revoke_self(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(key) = self.some_token(CredentialKind::Jwt) else { return Ok(()) };
        let by = self.promises.tokens[key].text.clone();
        let (told, _) = self.command(running, &by, What::RevokeSelf)?;
        self.promises.tokens[key].standing.change(Standing::Ended, told);
        Ok(())
    }

    fn rotate_bootstrap(&mut self, running: &mut Running) -> Result<(), Violation> {
        self.configure_bootstrap();
        self.apply_bootstrap(running).map(|_| ())
    }

    fn rotate_signing(&mut self, running: &mut Running) -> Result<(), Violation> {
        self.configure_signing();
        self.apply_signing(running).map(|_| ())
    }

    fn edit_keys_file(&mut self, running: &mut Running) -> Result<(), Violation> {
        if !self.file_keys.is_empty() && self.rng.chance(1, 3) {
            let place = self.rng.index(self.file_keys.len());
            self.file_keys.remove(place);
        }
        if let Some((tenant, _)) = self.some_tenant().filter(|_| self.rng.chance(2, 3)) {
            let secret = Secret::new(format!("{:032x}", self.fresh_number()));
            self.promises.tokens.push(Token {
                text: secret.expose().to_owned(),
                kind: CredentialKind::Streaming,
                tenant,
                name: "streaming".to_owned(),
                holder: Holder::Itself(Role::ServiceAccount),
                kid: None,
                number: None,
                standing: OneOf::known(Standing::Ended),
                successor: None,
            });
            self.file_keys.push(FileKey { secret, tenant: Tenant(tenant), name: String::new() });
        }
        self.apply_file_keys(running).map(|_| ())
    }

    // ----- notes -----

    fn take_note(&mut self, running: &mut Running) -> Result<(), Violation> {
        let kinds = [NoteKind::PermissionDenied, NoteKind::AuthenticationFailed, NoteKind::AdminRightUsed];
        let request_id = self.request_id();
        let token = self.some_token(CredentialKind::Jwt).map(|token| self.promises.tokens[token].text.clone());
        let who = token.and_then(|token| running.who(&token, Micros(self.now)));
        let note = Note {
            kind: kinds[self.rng.index(3)],
            credential: who.as_ref().map(|who| (who.slot, who.generation)),
            tenant: who.as_ref().map(|who| who.tenant),
            route: Some("GET /api/v1/tenants"),
            permission: Some(Permission::Admin),
            source: [10, 0, 0, 7].into(),
            request_id: request_id.clone(),
            at: Micros(self.now),
            count: 1 + self.rng.below(9),
            missed: self.rng.below(2),
        };
        running.control.take_note(&note);
        // Nobody is told, but what is durable is promised.
        let is_durable = !self.take_attempts(running)?.is_empty();
        if is_durable {
            self.promises.requests.push(request_id);
        }
        Ok(())
    }

    // ----- asking -----

    fn operate(&mut self, running: &mut Running, what: What) -> Result<(Told, Option<Done>), Violation> {
        match self.operator(running) {
            Some(by) => self.command(running, &by, what),
            None => Ok((Told::Refused, None)),
        }
    }

    /// By one of the tenant's admins, if it has one and the dice say so.
    fn operate_for(
        &mut self,
        running: &mut Running,
        tenant: u32,
        what: What,
    ) -> Result<(Told, Option<Done>), Violation> {
        let is_admin = |token: &&Token| token.tenant == tenant && token.holder == Holder::Itself(Role::Admin);
        let admin = self.promises.tokens.iter().rev().find(is_admin).map(|token| token.text.clone());
        match admin.filter(|_| self.rng.chance(1, 2)) {
            Some(by) => self.command(running, &by, what),
            None => self.operate(running, what),
        }
    }

    /// As a core does for whoever it lets in.
    fn command(&mut self, running: &mut Running, by: &str, what: What) -> Result<(Told, Option<Done>), Violation> {
        let Some(who) = running.who(by, Micros(self.now)) else { return Ok((Told::Refused, None)) };
        let request_id = self.request_id();
        let call = Call {
            slot: who.slot,
            generation: who.generation,
            source: [10, 0, 0, 7].into(),
            request_id: request_id.clone(),
            at: Micros(self.now),
        };
        let is_no_change = match &what {
            What::SetTenantState { named, state } => {
                running.control.state().tenant_named(named).is_some_and(|entry| entry.state == *state)
            }
            What::DeleteTenant { named, .. } => {
                let entry = running.control.state().tenant_or_deleting(named);
                entry.is_some_and(|entry| entry.state == TenantState::Deleting)
            }
            _ => false,
        };
        let answer = running.control.carry_out(&Command { call, what });
        if is_no_change {
            return Ok((Told::Refused, answer.ok()));
        }
        self.hear(running, &request_id, answer)
    }

    /// What reaches the one who asked, once every core has the change.
    fn hear(
        &mut self,
        running: &mut Running,
        request_id: &str,
        answer: Answer,
    ) -> Result<(Told, Option<Done>), Violation> {
        let was_unknown = self.ledger.is_unknown();
        let records = self.take_attempts(running)?;
        running.publish();
        if running.engine().is_dead() {
            return Ok((Told::Unknown, None));
        }
        match answer {
            Ok(_) if was_unknown => Err(format!("{request_id} is done behind a record that nobody knows about")),
            Ok(done) => {
                let last = records.last().and_then(|record| record.origin.request_id.as_deref());
                if last != Some(request_id) {
                    return Err(format!("{request_id} is done, and the last record is of {last:?}"));
                }
                self.promises.requests.push(request_id.to_owned());
                Ok((Told::Done, Some(done)))
            }
            Err(Refused::OutcomeUnknown | Refused::Onboard(OnboardError::OutcomeUnknown)) => Ok((Told::Unknown, None)),
            // Some of several changes may have found room.
            Err(Refused::Full) if !records.is_empty() => Ok((Told::Unknown, None)),
            Err(_) => Ok((Told::Refused, None)),
        }
    }

    // ----- choosing -----

    fn request_id(&mut self) -> String {
        format!("r-{}", self.fresh_number())
    }

    fn some_tenant(&mut self) -> Option<(u32, String)> {
        let there = self.promises.tenants.iter().filter(|(_, tenant)| !tenant.is_erased());
        let there: Vec<_> = there.map(|(number, tenant)| (*number, tenant.id.clone())).collect();
        (!there.is_empty()).then(|| there[self.rng.index(there.len())].clone())
    }

    /// One that may open something still.
    fn some_token(&mut self, kind: CredentialKind) -> Option<usize> {
        let is_live = |token: &Token| {
            token.kind == kind
                && token.standing.get() != Some(&Standing::Ended)
                && self.promises.tenants.get(&token.tenant).is_some_and(|tenant| !tenant.is_erased())
        };
        let tokens = self.promises.tokens.iter().enumerate();
        let live: Vec<usize> = tokens.filter(|(_, token)| is_live(token)).map(|(index, _)| index).collect();
        (!live.is_empty()).then(|| live[self.rng.index(live.len())])
    }

    /// The key of the same tenant and name that is not replaced yet.
    fn current_key(&self, running: &Running, of: usize) -> Option<usize> {
        let (tenant, called) = (self.promises.tokens[of].tenant, &self.promises.tokens[of].name);
        let keys = running.control.state().keys_of(Tenant(tenant), CredentialKind::Jwt);
        let is_current =
            |key: &&KeyEntry| key.made.name == *called && key.is_live(Micros(self.now)) && key.replaced_by.is_none();
        let number = keys.filter(is_current).map(|key| key.made.key).next();
        self.promises.tokens.iter().position(|token| number.is_some() && token.number == number)
    }

    fn tier(&mut self) -> Tier {
        Tier::ALL[self.rng.index(Tier::ALL.len())]
    }

    fn grace_seconds(&mut self) -> u32 {
        if self.rng.chance(1, 2) { 0 } else { 1 + self.rng.below(7_200) as u32 }
    }

    // ----- keeping -----

    fn keep_key(
        &mut self,
        running: &Running,
        tenant: u32,
        name: String,
        role: Role,
        key: &Secret,
        expires_at: Option<i64>,
    ) {
        self.promises.tokens.push(Token {
            text: key.expose().to_owned(),
            kind: CredentialKind::Jwt,
            tenant,
            name,
            holder: Holder::Itself(role),
            kid: Some(running.kid().to_owned()),
            number: Some(running.control.state().next_key() - 1),
            standing: OneOf::known(Standing::Until(expires_at)),
            successor: None,
        });
    }

    fn change_terms(&mut self, number: u32, told: Told, change: impl Fn(&mut TenantTerms)) {
        let tenant = self.promises.tenants.get_mut(&number).expect("it was chosen among those that are there");
        tenant.terms.change_each(told, |terms| terms.iter_mut().for_each(&change));
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn named(id: &str) -> Whose {
    Whose { tenant: None, named: Some(id.to_owned()) }
}
