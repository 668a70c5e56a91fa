//! What anybody with a certificate may declare.
#![no_main]

use dwell_core::workload::WorkloadSpec;
use dwell_proto::v1;
use prost::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = v1::ApplyRequest::decode(bytes) else { return };
    for workload in request.workloads {
        let Ok(spec) = WorkloadSpec::try_from(workload) else { continue };
        let _ = spec.check();
        let _ = spec.template.fingerprint();
        assert_eq!(WorkloadSpec::try_from(v1::WorkloadSpec::from(&spec)).as_ref(), Ok(&spec));
    }
});
