//! What a name means inside a sandbox, for connections forwarded into it.
//!
//! We ask the sandbox's gateway, as the instance's own `resolv.conf` says, from inside the sandbox; the
//! node's agent answers there. A short name is completed by the zone of the instances, as there. If nobody answers, as while the agent is being upgraded, the host's resolver is
//! asked. The container's `/etc/hosts` is not read: it is the container's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::netns;

/// Where every sandbox asks.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)), 53);
/// Two questions, each for so long.
const ATTEMPTS: u32 = 2;
const TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer over UDP, in bytes.
const MAX_ANSWER: usize = 4096;
/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// The addresses of `host`, as a client named it, inside `netns`; at least one. `zone` completes short names.
///
/// # Errors
/// If it is no name, or has no address.
pub(crate) async fn addresses(netns: &Path, zone: &str, host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Ok(vec![address]);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
    }
    for name in candidates(host, zone)? {
        let found = match ask(netns, &name).await {
            Some(found) => found,
            None => tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect(),
        };
        if !found.is_empty() {
            return Ok(found.into_iter().take(MAX_ADDRESSES).collect());
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")))
}

/// What `host` may mean, the likeliest first: a name without a dot is first looked for in the zone, one with a dot
/// last, and one that ends in a dot is complete.
fn candidates(host: &str, zone: &str) -> io::Result<Vec<Name>> {
    let name = |text: &str| {
        let mut name = Name::from_ascii(text).map_err(io::Error::other)?;
        name.set_fqdn(true);
        io::Result::Ok(name)
    };
    if zone.is_empty() || host.ends_with('.') {
        return Ok(vec![name(host)?]);
    }
    // A name that becomes too long by it is none of the zone's.
    let mut names: Vec<Name> = name(&format!("{host}.{zone}")).into_iter().collect();
    names.insert(if host.contains('.') { 0 } else { names.len() }, name(host)?);
    Ok(names)
}

/// Asks the gateway; nothing if it does not answer, or cannot say.
async fn ask(netns: &Path, name: &Name) -> Option<Vec<IpAddr>> {
    let socket = netns::datagrams(netns, SERVER).await.ok()?;
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), RecordType::A));
    let bytes = question.to_vec().ok()?;
    for _ in 0..ATTEMPTS {
        socket.send(&bytes).await.ok()?;
        let mut answer = [0; MAX_ANSWER];
        let received = tokio::time::timeout(TIMEOUT, socket.recv(&mut answer));
        match received.await {
            Ok(Ok(length)) => return read_answer(&answer[..length], question.metadata.id),
            Ok(Err(_)) => return None,
            Err(_) => {}
        }
    }
    None
}

/// The addresses in the answer to the question `id`; nothing if it is no answer.
pub fn read_answer(bytes: &[u8], id: u16) -> Option<Vec<IpAddr>> {
    let answer = Message::from_vec(bytes).ok().filter(|answer| answer.metadata.id == id)?;
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None,
    };
    match answer.metadata.response_code {
        ResponseCode::NoError => {
            Some(answer.answers.iter().filter_map(|record| address(&record.data)).collect())
        }
        ResponseCode::NXDomain => Some(Vec::new()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, OpCode, ResponseCode};
    use hickory_proto::rr::rdata::{A, CNAME};
    use hickory_proto::rr::{Name, RData, Record};
    use proptest::prelude::*;

    use super::{candidates, read_answer};

    fn answer(id: u16, code: ResponseCode, data: Vec<RData>) -> Vec<u8> {
        let mut message = Message::response(id, OpCode::Query);
        message.metadata.response_code = code;
        let name = Name::from_ascii("db.dwell.").unwrap();
        message.answers =
            data.into_iter().map(|data| Record::from_rdata(name.clone(), 5, data)).collect();
        message.to_vec().unwrap()
    }

    #[test]
    fn answers() {
        let alias = RData::CNAME(CNAME(Name::from_ascii("other.dwell.").unwrap()));
        let found = answer(7, ResponseCode::NoError, vec![alias, RData::A(A::new(10, 80, 1, 5))]);
        assert_eq!(read_answer(&found, 7), Some(vec![[10, 80, 1, 5].into()]));
        assert_eq!(read_answer(&found, 8), None, "to another question");
        assert_eq!(read_answer(&answer(7, ResponseCode::NXDomain, vec![]), 7), Some(vec![]));
        assert_eq!(read_answer(&answer(7, ResponseCode::ServFail, vec![]), 7), None);
    }

    #[test]
    fn a_short_name_means_what_it_means_inside() {
        let names = |host, zone| -> Vec<String> {
            candidates(host, zone).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(names("db", "dwell"), ["db.dwell.", "db."]);
        assert_eq!(names("db-0.dwell", "dwell"), ["db-0.dwell.", "db-0.dwell.dwell."]);
        assert_eq!(names("db-0.", "dwell"), ["db-0."]);
        assert_eq!(names("db", ""), ["db."], "as long as the zone is not known");
        let long = format!("{0}.{0}.{0}.{1}", "a".repeat(60), "b".repeat(58));
        assert_eq!(names(&long, "example-zone.internal").len(), 1);
        assert!(candidates(&"a".repeat(64), "dwell").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(read_answer(&bytes, 7));
        }
    }
}
