//! What a message would take in memory, told from its bytes before anything is made of them.
//!
//! An entry of two bytes on the wire may be a structure of hundreds of bytes in memory, so a bound of a message's length is
//! none of what reading it takes. [`check`] walks over the bytes with the descriptions of the `.proto` files and adds up
//! what each value would take; nothing is kept, and the walk ends where [`MEMORY_MAX_BYTES`] does.
//!
//! Invariants: the sum is at least what the message takes once it is read; bytes are taken apart by the functions that
//! read them afterwards, so that both see the same; what cannot be taken apart is refused.

use prost::bytes::Buf as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// The most that a request may take once it is read, in bytes. All that a full node says of itself, ten thousand instances and
/// a hundred thousand volumes, takes about half.
pub const MEMORY_MAX_BYTES: usize = 96 << 20;

/// How much room a list may have for each entry: it doubles when it is full, and maps keep an eighth free.
const GROWTH: usize = 3;
/// How many entries a list has room for when it has one.
const FIRST_ENTRIES: usize = 4;
/// What an allocation takes beside what was asked for, in bytes and at most.
const ALLOCATION_BYTES: usize = 32;
/// How deep messages may be within each other; those that there are are less deep.
const DEPTH_MAX: usize = 16;

/// The description of a message.
struct Shape {
    name: &'static str,
    /// Whether it is what a method takes.
    is_request: bool,
    fields: &'static [Field],
}

struct Field {
    number: u32,
    name: &'static str,
    /// What one value takes, without what it points to.
    each_bytes: usize,
    is_many: bool,
    content: Content,
}

#[derive(Clone, Copy)]
enum Content {
    Number,
    /// Text, too.
    Bytes,
    /// By its place among all shapes.
    Message(usize),
}

/// All messages of the `.proto` files.
static SHAPES: &[Shape] = include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// Why a message is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoundsError {
    /// It would take too much memory.
    #[error(
        "the request would take more than {} MiB of memory once it is read; the sum is reached among the values of \
         {field}: send fewer in one message", MEMORY_MAX_BYTES >> 20
    )]
    Memory {
        /// The field at which that was clear, such as `dwell.v1.StatusReport.instances`.
        field: String,
    },
    /// It is not what it should be.
    #[error("the request is no message of {message}: {reason}")]
    Malformed {
        /// The message that it should be.
        message: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// The bounds of a kind of request.
#[derive(Clone, Copy)]
pub struct Bounds(&'static Shape);

impl Bounds {
    /// Those of a message by its full name, if it is what a method takes. Answers have none: whoever asks trusts whom it asks.
    #[must_use]
    pub fn of_request(full_name: &str) -> Option<Self> {
        SHAPES.iter().find(|shape| shape.is_request && shape.name == full_name).map(Self)
    }

    /// What these bytes take at most once they are read as that message, in bytes.
    ///
    /// # Errors
    /// [`BoundsError`] if that is more than [`MEMORY_MAX_BYTES`], or they are no such message.
    pub fn check(self, bytes: &[u8]) -> Result<usize, BoundsError> {
        let mut walk = Walk { left: MEMORY_MAX_BYTES };
        walk.message(self.0, bytes, 0)?;
        Ok(MEMORY_MAX_BYTES - walk.left)
    }
}

impl std::fmt::Debug for Bounds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Bounds").field(&self.0.name).finish()
    }
}

struct Walk {
    /// How many bytes may still be taken.
    left: usize,
}

impl Walk {
    fn message(
        &mut self,
        shape: &'static Shape,
        mut bytes: &[u8],
        depth: usize,
    ) -> Result<(), BoundsError> {
        let malformed = |reason: String| BoundsError::Malformed { message: shape.name, reason };
        if depth > DEPTH_MAX {
            return Err(malformed(format!("it is more than {DEPTH_MAX} messages deep")));
        }
        // The lists that have an entry, by their place among the fields, of which there are fewer than a hundred.
        let mut begun = 0_u128;
        while bytes.has_remaining() {
            let (number, wire_type) =
                decode_key(&mut bytes).map_err(|error| malformed(error.to_string()))?;
            let found = shape.fields.iter().enumerate().find(|(_, field)| field.number == number);
            let Some((place, field)) = found.filter(|_| wire_type == WireType::LengthDelimited)
            else {
                skip_field(wire_type, number, &mut bytes, DecodeContext::default())
                    .map_err(|error| malformed(error.to_string()))?;
                if let Some((place, field)) = found {
                    self.value(shape, place, field, &mut begun)?;
                }
                continue;
            };
            let length = decode_varint(&mut bytes).map_err(|error| malformed(error.to_string()))?;
            let part =
                usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length));
            let Some((part, rest)) = part else {
                return Err(malformed(format!("{} ends before its {length} bytes do", field.name)));
            };
            bytes = rest;
            match field.content {
                // Packed: none is shorter than a byte.
                Content::Number => {
                    let each = field.each_bytes * GROWTH;
                    self.take(
                        shape,
                        field,
                        ALLOCATION_BYTES.saturating_add(part.len().saturating_mul(each)),
                    )?;
                }
                Content::Bytes => {
                    self.value(shape, place, field, &mut begun)?;
                    if !part.is_empty() {
                        self.take(shape, field, part.len().saturating_add(ALLOCATION_BYTES))?;
                    }
                }
                Content::Message(of) => {
                    self.value(shape, place, field, &mut begun)?;
                    if let Some(of) = SHAPES.get(of) {
                        self.message(of, part, depth + 1)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// One value of a field, without what it points to.
    fn value(
        &mut self,
        shape: &'static Shape,
        place: usize,
        field: &'static Field,
        begun: &mut u128,
    ) -> Result<(), BoundsError> {
        // What there is one of is part of what contains it, but may be given again and again.
        let room = match field.is_many {
            false => 1,
            true if *begun & (1_u128 << place) == 0 => FIRST_ENTRIES,
            true => GROWTH,
        };
        *begun |= 1_u128 << place;
        self.take(shape, field, field.each_bytes.saturating_mul(room))
    }

    fn take(
        &mut self,
        shape: &'static Shape,
        field: &'static Field,
        bytes: usize,
    ) -> Result<(), BoundsError> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| BoundsError::Memory {
            field: format!("{}.{}", shape.name, field.name),
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
