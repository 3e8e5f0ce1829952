//! The ringlog server.

pub mod apikeys;
pub mod auth;
pub mod catalog;
pub mod cli;
pub mod client;
pub mod config;
pub mod core;
pub mod exit;
pub mod facilitator;
pub mod first_run;
pub mod handle;
pub mod limits;
pub mod listeners;
pub mod logging;
pub mod net;
pub mod offline;
pub mod signals;
pub mod start;
pub mod wire;
