//! Assignments that are too large for one message, as several.
//!
//! The message is encoded and cut; the pieces are put together again and read as one. Nothing of it counts before
//! the last piece is there. Both sides bound the whole, so that neither can be made to hold more.

use std::mem;

use prost::Message as _;
use prost::bytes::Bytes;

use crate::FromWireError;
use crate::v1;
use crate::v1::controller_message::Message;

/// The largest piece, in bytes.
const PIECE_MAX_BYTES: usize = 1 << 20;
/// The largest assignment, in bytes.
pub const ASSIGNMENT_MAX_BYTES: usize = 256 << 20;

/// An assignment that no message can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "what it is to do takes {bytes} bytes, and {max} are the most that can be sent to its agent; move \
     instances to other nodes, or shorten their environment"
)]
pub struct TooLarge {
    /// How large it is.
    pub bytes: usize,
    /// How large it may be.
    pub max: usize,
}

/// The messages that carry an assignment to an agent that takes pieces.
///
/// # Errors
/// [`TooLarge`].
pub fn of_assignment(assignment: v1::Assignment) -> Result<Vec<Message>, TooLarge> {
    let bytes = assignment.encoded_len();
    if bytes > ASSIGNMENT_MAX_BYTES {
        return Err(TooLarge { bytes, max: ASSIGNMENT_MAX_BYTES });
    }
    if bytes <= PIECE_MAX_BYTES {
        return Ok(vec![Message::Assignment(assignment)]);
    }
    let mut rest = Bytes::from(assignment.encode_to_vec());
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let data = rest.split_to(PIECE_MAX_BYTES.min(rest.len()));
        let last = rest.is_empty();
        messages.push(Message::AssignmentPiece(v1::AssignmentPiece { data, last }));
    }
    Ok(messages)
}

/// The message that carries an assignment to an agent that takes no pieces.
///
/// # Errors
/// [`TooLarge`].
pub fn in_one(assignment: v1::Assignment) -> Result<Vec<Message>, TooLarge> {
    // Of the message around it also tag and length.
    const FRAME: usize = 64;
    let (bytes, max) = (assignment.encoded_len(), crate::MESSAGE_MAX_BYTES - FRAME);
    if bytes > max {
        return Err(TooLarge { bytes, max });
    }
    Ok(vec![Message::Assignment(assignment)])
}

/// Puts an assignment together again.
#[derive(Debug, Default)]
pub struct Assembly(Vec<u8>);

impl Assembly {
    /// Takes the next piece; returns the assignment if it was the last.
    ///
    /// # Errors
    /// [`FromWireError`] if it is too large, or is none.
    pub fn take(
        &mut self,
        piece: v1::AssignmentPiece,
    ) -> Result<Option<v1::Assignment>, FromWireError> {
        if self.0.len() + piece.data.len() > ASSIGNMENT_MAX_BYTES {
            let problem = format!("its pieces are more than {ASSIGNMENT_MAX_BYTES} bytes together");
            return Err(FromWireError::new("assignment_piece", problem));
        }
        self.0.extend(piece.data);
        if !piece.last {
            return Ok(None);
        }
        let whole = mem::take(&mut self.0);
        let read = v1::Assignment::decode(whole.as_slice());
        read.map(Some).map_err(|error| {
            FromWireError::new(
                "assignment_piece",
                format!("together they are no assignment: {error}"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dwell_core::fixtures;
    use dwell_core::id::Revision;
    use dwell_core::instance::Assigned;
    use dwell_core::session::{Assignment, AssignmentChange, NodeNetwork};
    use dwell_core::workload::Template;

    use super::*;

    /// What a node is to do that runs `count` instances, each with its own or all with one environment of
    /// 248 KB.
    fn change(count: u32, own: bool) -> AssignmentChange {
        let assigned = |number: u32| {
            let mut template = Template::of_image("app:1");
            for variable in 0..8 {
                let text = format!("{}{}", if own { number } else { 0 }, "x".repeat(31_000));
                template.environment.insert(format!("V{variable}"), text);
            }
            let address = std::net::Ipv4Addr::from(0x0a50_0001 + number);
            let fallback = Some(Template::of_image("app:0"));
            let assigned = fixtures::assigned(&format!("w{number}-0"), 1, template);
            Assigned { fallback, ..fixtures::at(address, assigned) }
        };
        let mut all = Assignment::empty(NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap()));
        all.revision = Revision(7);
        all.instances = (0..count)
            .map(assigned)
            .map(|one| (one.instance.clone(), one))
            .collect::<BTreeMap<_, _>>();
        AssignmentChange::Snapshot(all)
    }

    fn carried(change: &AssignmentChange) -> (usize, AssignmentChange) {
        let messages = of_assignment(v1::Assignment::digested(change)).unwrap();
        let count = messages.len();
        let mut assembly = Assembly::default();
        let mut read = None;
        for message in messages {
            assert!(message.encoded_len() < crate::MESSAGE_MAX_BYTES);
            assert!(read.is_none(), "nothing counts before the last piece");
            read = match message {
                Message::Assignment(whole) => Some(whole),
                Message::AssignmentPiece(piece) => assembly.take(piece).unwrap(),
                other => panic!("{other:?}"),
            };
        }
        (count, AssignmentChange::try_from(read.unwrap()).unwrap())
    }

    #[test]
    fn seventy_replicas_with_a_large_environment_are_one_message() {
        let change = change(70, false);
        let (count, read) = carried(&change);
        assert_eq!(count, 1, "a template is sent once");
        assert_eq!(read, change);
    }

    #[test]
    fn seventy_workloads_with_large_environments_come_in_pieces() {
        let change = change(70, true);
        let in_one = in_one((&change).into()).unwrap_err();
        assert!(in_one.to_string().contains("shorten their environment"), "{in_one}");
        let (count, read) = carried(&change);
        assert!(count > 16, "{count} pieces");
        assert_eq!(read, change);
    }

    #[test]
    fn the_form_that_older_controllers_send_is_read() {
        let change = change(2, false);
        let wire = v1::Assignment::from(&change);
        assert!(
            wire.templates.is_empty() && wire.instances.iter().all(|one| one.template.is_some())
        );
        assert_eq!(AssignmentChange::try_from(wire).unwrap(), change);
    }

    #[test]
    fn pieces_that_are_no_assignment_are_refused() {
        let mut assembly = Assembly::default();
        let piece = v1::AssignmentPiece { data: vec![0xff; 10].into(), last: true };
        assembly.take(piece).unwrap_err();
        let mut digested = v1::Assignment::digested(&change(1, true));
        // Without what to fall back to an instance would be what nobody decided.
        let is_fallback = |one: &v1::DigestedTemplate| {
            one.template.as_ref().is_some_and(|template| template.image == "app:0")
        };
        digested.templates.retain(|one| !is_fallback(one));
        AssignmentChange::try_from(digested.clone()).unwrap_err();
        digested.templates.clear();
        AssignmentChange::try_from(digested).unwrap_err();
    }
}
