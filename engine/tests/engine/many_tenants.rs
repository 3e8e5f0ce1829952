//! More tenants than the checkpoint of a small segment can hold.

use ringlog_engine::format::checkpoint::CHECKPOINT_ENTRY_BYTES;
use ringlog_engine::ids::{Position, Tenant};
use ringlog_engine::shard::AppendError;

use crate::rig::{Event, Rig, SEGMENT_BYTES};

#[test]
fn a_tenant_too_many_is_refused_and_those_before_it_go_on() {
    let mut rig = Rig::new(1);
    rig.open().unwrap();
    let event = [Event::new("order.placed", "entity", "{}")];
    let fits_never = (SEGMENT_BYTES / CHECKPOINT_ENTRY_BYTES as u64) as u32;
    let mut tenants = 0;
    let refused = loop {
        assert!(tenants < fits_never);
        match rig.append(Tenant(tenants + 1), &event).unwrap() {
            Ok(_) => tenants += 1,
            Err(error) => break error,
        }
        rig.settle();
    };
    assert_eq!(refused, AppendError::TenantLimit);
    assert!(fits_never / 4 < tenants, "{tenants}");
    for round in 2..40 {
        assert_eq!(rig.put(1, "order.placed", "entity", "{}").first_position, Position(round));
        rig.settle();
    }
    rig.close();
    rig.stop();
    let report = rig.open().unwrap();
    assert!(report.damage.is_empty(), "{report:?}");
    assert_eq!(rig.put(tenants, "order.placed", "entity", "{}").first_position, Position(2));
}
