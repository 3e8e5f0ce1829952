//! What a request means: who may, what it says, and the answer.
//!
//! Owns the routes and the shape of every answer. Never waits, never touches a socket or a file: `core` carries out what
//! comes out of here, and comes back with how it ended.

pub mod accounts;
mod agent_keys;
pub mod apikeys;
mod audit;
mod body;
pub mod control;
pub mod events;
pub mod health;
pub mod json_body;
pub mod onboard;
pub mod query;
pub mod routes;
pub mod sources;
mod streaming_keys;
mod tenants;
pub mod usage;
mod users;
pub mod x402;
