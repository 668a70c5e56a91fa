//! The wire: `dwell.v1`, generated from `dwell/v1/*.proto`, and its conversions to and from
//! [`dwell_core`].
//!
//! Nothing behind the session and API modules of agent and controller sees a wire type. Conversion
//! *from* the wire checks everything ([`FromWireError`] names the field); conversion *to* the wire cannot fail.

pub mod bounds;
pub mod codec;
mod convert;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod pieces;
pub mod trust;

pub use convert::{FromWireError, ranges};

/// Messages, clients and servers, as generated.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::large_enum_variant,
    reason = "generated; what needs a comment has one in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("dwell.v1");
}

/// The encoded descriptors of all files, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dwell.v1.bin"));

/// The oldest version of the session protocol that this build speaks.
pub const PROTOCOL: u32 = 1;

/// The newest one. Version 2 has histories: an assignment may be unconfirmed, and nothing is then taken away.
pub const PROTOCOL_NEWEST: u32 = 2;

/// The newest version that this build and another one speak, which says the oldest and the newest that it speaks.
#[must_use]
pub fn common_protocol(oldest: u32, newest: u32) -> Option<u32> {
    // One that names no newest speaks only one.
    let common = newest.max(oldest).min(PROTOCOL_NEWEST);
    (common >= oldest.max(PROTOCOL)).then_some(common)
}

/// The largest message either side takes, in bytes; anything larger is refused before it is read. What a
/// node is to do may be larger: see [`pieces`].
pub const MESSAGE_MAX_BYTES: usize = 16 << 20;

/// How many requests one connection may have going at once: an agent's tunnels are requests, too.
pub const STREAMS_MAX: u32 = 1536;

/// How many bytes of one stream may be on their way to a side that does not read them.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// The same for all streams of a connection together: room for one more than there can be, so that
/// streams that nobody reads (a paused `dwell logs`) hold up no other, least of all the session.
pub const CONNECTION_WINDOW_BYTES: u32 = (STREAMS_MAX + 1) * STREAM_WINDOW_BYTES;
