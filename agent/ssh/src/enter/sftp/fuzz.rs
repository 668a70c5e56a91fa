//! What must hold of the packets that a client sends, for any bytes.

use std::io::{self, Read};

use super::packet::{Input, MAX_PACKET, Malformed, Request};

/// A stream that comes a few bytes at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let most = space.len().min(7);
        self.0.read(&mut space[..most])
    }
}

/// All packets of a stream, each read as every request there is.
pub(crate) fn packets(bytes: &[u8]) {
    let mut input = Input::new(Trickle(bytes));
    loop {
        match input.next_buffered() {
            Ok(Some(packet)) => {
                assert!(packet.len() <= MAX_PACKET);
                if let Ok(request) = Request::parse(packet) {
                    for read in [attributes, names, numbers] {
                        // What is cut off is an error, and nothing else.
                        read(request.clone()).ok();
                    }
                }
            }
            Ok(None) => match input.fill() {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            },
            Err(_) => return,
        }
    }
}

/// `OPEN`, `SETSTAT`, `MKDIR`: a path, a number, attributes.
fn attributes(mut request: Request<'_>) -> Result<(), Malformed> {
    let (_path, _flags) = (request.path()?, request.number()?);
    let said = request.attributes()?;
    let mut body = vec![0];
    body.extend(0_u32.to_be_bytes());
    said.push(&mut body);
    assert_eq!(Request::parse(&body)?.attributes()?, said);
    Ok(())
}

/// `RENAME`, `SYMLINK`, `EXTENDED`.
fn names(mut request: Request<'_>) -> Result<(), Malformed> {
    while request.bytes().is_ok() {}
    request.path().map(drop)
}

/// `READ`, `WRITE`, `READDIR`.
fn numbers(mut request: Request<'_>) -> Result<(), Malformed> {
    let (_handle, _offset, _length) =
        (request.handle()?, request.long_number()?, request.number()?);
    request.bytes().map(drop)
}
