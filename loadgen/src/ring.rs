//! The runtime: one monoio ring on one thread, with the flags that halve its cost per request.
//!
//! SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1) let completions be made when this thread asks for them. COOP_TASKRUN
//! stands beside them because the kernel takes the two together; with DEFER_TASKRUN it adds nothing, and alone
//! (Linux 5.19) it is the next best. TASKRUN_FLAG is of no use here: it tells who peeks at the queue that there is work
//! to enter for, and monoio always enters and waits. Older kernels get a plain ring.

use crate::failure::Failure;
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, RuntimeBuilder};
use std::future::Future;

/// Enough for two operations of each of some thousand connections; more are submitted in several turns.
const RING_ENTRIES: u32 = 4096;

/// Runs `future` to its end on this thread.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let mut deferred = io_uring_of_monoio::IoUring::builder();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
    let mut cooperative = io_uring_of_monoio::IoUring::builder();
    cooperative.setup_coop_taskrun();
    let plain = io_uring_of_monoio::IoUring::builder();
    let build = |ring: io_uring_of_monoio::Builder| {
        RuntimeBuilder::<TimeDriver<IoUringDriver>>::new().with_entries(RING_ENTRIES).uring_builder(ring).build()
    };
    let built = build(deferred).or_else(|_| build(cooperative)).or_else(|_| build(plain));
    let mut runtime = built.map_err(|error| {
        Failure::Other(format!(
            "io_uring is refused here ({error}); in a container, allow it: --security-opt seccomp=unconfined"
        ))
    })?;
    Ok(runtime.block_on(future))
}

/// Keeps this thread, and those it starts, on these CPUs.
pub fn pin(cpus: &[usize]) -> Result<(), Failure> {
    monoio::utils::bind_to_cpu_set(cpus.iter().copied())
        .map_err(|error| Failure::Usage(format!("--cpus {cpus:?}: there is no such CPU, or it is not ours: {error}")))
}
