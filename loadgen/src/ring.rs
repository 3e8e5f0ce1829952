//! The runtime: one monoio ring on one thread, with the flags that halve its cost per request.
//!
//! SINGLE_ISSUER and DEFER_TASKRUN need Linux 6.1; older kernels get a plain ring.

use crate::failure::Failure;
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, RuntimeBuilder};
use std::future::Future;

/// Enough for two operations of each of some thousand connections; more are submitted in several turns.
const RING_ENTRIES: u32 = 4096;

/// Runs `future` to its end on this thread.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let mut quick = io_uring_of_monoio::IoUring::builder();
    quick.setup_single_issuer().setup_defer_taskrun();
    let plain = io_uring_of_monoio::IoUring::builder();
    let build = |ring: io_uring_of_monoio::Builder| {
        RuntimeBuilder::<TimeDriver<IoUringDriver>>::new().with_entries(RING_ENTRIES).uring_builder(ring).build()
    };
    let mut runtime = build(quick).or_else(|_| build(plain)).map_err(|error| {
        Failure::Other(format!(
            "io_uring is refused here ({error}); in a container, allow it: --security-opt seccomp=unconfined"
        ))
    })?;
    Ok(runtime.block_on(future))
}

/// Keeps this thread on one CPU.
pub fn pin(cpu: usize) -> Result<(), Failure> {
    monoio::utils::bind_to_cpu_set([cpu]).map_err(|error| Failure::Usage(format!("--cpu {cpu}: {error}")))
}
