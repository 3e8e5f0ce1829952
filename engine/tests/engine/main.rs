//! The engine from outside: its promises, checked through what it publishes.

// Every module is `cfg(test)`, so that lints know the helpers in it for what they are.
#[cfg(test)]
mod bit_rot;
#[cfg(test)]
mod crash_points;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod disk_format;
#[cfg(test)]
mod erase;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod many_tenants;
#[cfg(test)]
mod quotas;
#[cfg(test)]
mod real_files;
#[cfg(test)]
mod rig;
