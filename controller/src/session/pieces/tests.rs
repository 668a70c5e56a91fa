//! How large the directory is on the wire, and how it is cut.

use std::net::Ipv4Addr;

use dwell_core::directory::{Directory, DirectoryInstance, DirectoryWorkload};
use dwell_core::id::{Incarnation, InstanceName, Revision, WorkloadName};

use super::*;

fn change(instances: u32, base: Option<Revision>) -> DirectoryChange {
    let workload = WorkloadName::new("a-workload-with-a-name").unwrap();
    let first = u32::from(Ipv4Addr::new(10, 80, 0, 1));
    let entry = |ordinal: u32| {
        let address = Ipv4Addr::from(first + ordinal);
        let name = InstanceName::new(workload.clone(), ordinal);
        (name, DirectoryInstance { address, ready: true })
    };
    DirectoryChange {
        incarnation: Incarnation(3),
        revision: Revision(1_000_000),
        base,
        workloads: [(workload.clone(), DirectoryWorkload::default())].into(),
        instances: (0..instances).map(entry).collect(),
        removed_workloads: Vec::new(),
        removed_instances: Vec::new(),
    }
}

#[test]
fn fifty_thousand_instances_are_one_message_far_below_the_limit() {
    let pieces = of_directory(&change(50_000, None));
    assert_eq!(pieces.len(), 1);
    let bytes = pieces[0].encoded_len();
    println!("{} bytes for each of 50,000 instances", bytes / 50_000);
    assert!(bytes < 3 * 1024 * 1024, "{bytes}");
    const { assert!(DIRECTORY_MAX_BYTES <= dwell_proto::MESSAGE_MAX_BYTES / 2) };
}

#[test]
fn pieces_add_up_and_only_the_last_has_the_revision() {
    for base in [None, Some(Revision(7))] {
        let whole = change(500, base);
        let pieces = pieces((&whole).into(), 2_000);
        assert!(pieces.len() > 5 && pieces.iter().all(|piece| piece.encoded_len() < 2_100));
        let mut held = Directory { revision: base.unwrap_or_default(), ..Directory::default() };
        for (index, piece) in pieces.iter().enumerate() {
            held.apply(DirectoryChange::try_from(piece.clone()).unwrap()).unwrap();
            assert_eq!(held.revision == whole.revision, index == pieces.len() - 1);
            assert_eq!(held.incarnation, whole.incarnation);
        }
        assert_eq!((held.instances, held.workloads), (whole.instances, whole.workloads));
    }
}

#[test]
fn a_change_of_nothing_is_no_message_but_nothing_at_all_is() {
    let nothing =
        |base| DirectoryChange { instances: [].into(), workloads: [].into(), ..change(0, base) };
    assert!(of_directory(&nothing(Some(Revision(7)))).is_empty());
    assert_eq!(of_directory(&nothing(None)).len(), 1);
}
