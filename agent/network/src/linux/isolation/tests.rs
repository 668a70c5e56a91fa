use proptest::prelude::*;

use super::*;

const INSTANCE: Ipv4Addr = Ipv4Addr::new(10, 80, 1, 5);

fn allow(source: &str, ports: &[(Protocol, u16, u16)]) -> Allow {
    let ports = ports.iter().map(|&(protocol, first, last)| PortRange { protocol, first, last });
    Allow { source: source.parse().unwrap(), ports: ports.collect() }
}

fn of(allowed: Vec<Allow>) -> Vec<Element> {
    towards(Direction::In, allowed)
}

fn towards(direction: Direction, allowed: Vec<Allow>) -> Vec<Element> {
    elements(&[Policy { address: INSTANCE, direction, allowed }])
}

#[test]
fn nobody_allowed_is_isolated_all_the_same() {
    assert_eq!(sets(&of(vec![])), [Set::Isolated].into());
    assert!(elements(&[]).is_empty());
}

#[test]
fn each_kind_of_source_has_its_set() {
    let allowed = vec![
        allow("10.80.2.1/32", &[]),
        allow("10.80.2.2/32", &[(Protocol::Tcp, 80, 80)]),
        allow("192.0.2.0/24", &[]),
        allow("192.0.2.0/24", &[(Protocol::Udp, 0, 65535)]),
    ];
    let sets = sets(&of(allowed));
    let expected =
        [Set::Isolated, Set::Sources(24), Set::Sources(32), Set::Ports(24, 16), Set::Ports(32, 0)];
    assert_eq!(sets, expected.into());
    assert_eq!(
        Set::Ports(24, 4).rule(Family::V4),
        "ip daddr . ip saddr & 255.255.255.0 . meta l4proto . th dport & 65520 \
         @from_24_ports_4 accept"
    );
    assert!(
        Set::Ports(0, 16)
            .rule(Family::V4)
            .contains("saddr & 0.0.0.0 . meta l4proto . th dport & 0 ")
    );
}

#[test]
fn each_direction_has_sets_of_its_own() {
    let allowed =
        || vec![allow("192.0.2.0/24", &[]), allow("10.80.2.2/32", &[(Protocol::Tcp, 80, 80)])];
    let out = towards(Direction::Out, allowed());
    let expected = [Set::Confined, Set::Destinations(24), Set::DestinationPorts(32, 0)];
    assert_eq!(sets(&out), expected.into());
    assert_eq!(
        Set::DestinationPorts(24, 4).rule(Family::V4),
        "ip saddr . ip daddr & 255.255.255.0 . meta l4proto . th dport & 65520 @to_24_ports_4 return"
    );
    let both = [Direction::In, Direction::Out];
    let policies =
        both.map(|direction| Policy { address: INSTANCE, direction, allowed: allowed() });
    let all = elements(&policies);
    assert_eq!(all.len(), 2 * out.len());
    assert_eq!(rules(&sets(&all), 1), [4, 5, 5]);
    assert_eq!(rules(&sets(&out), 1), [2, 3, 5]);
    assert_eq!(rules(&sets(&all), 2), [8, 7, 7]);
}

#[test]
fn a_key_has_its_fields_at_multiples_of_four() {
    let elements = of(vec![allow("10.80.2.2/32", &[(Protocol::Tcp, 8080, 8080)])]);
    let key = [10, 80, 1, 5, 10, 80, 2, 2, 6, 0, 0, 0, 0x1f, 0x90, 0, 0];
    assert_eq!(elements[1].key(Family::V4), key);
}

#[test]
fn a_range_is_made_up_of_few_blocks() {
    let blocks = |first, last| blocks(&PortRange { protocol: Protocol::Tcp, first, last });
    assert_eq!(blocks(0, 65535), [(0, 16)]);
    assert_eq!(blocks(80, 80), [(80, 0)]);
    assert_eq!(blocks(80, 97), [(80, 4), (96, 0), (97, 0)]);
    assert_eq!(blocks(65535, 65535), [(65535, 0)]);
    assert_eq!(blocks(9, 1), []);
    assert!(blocks(1, 65534).len() < 128);
}

#[test]
fn the_difference_leads_from_one_to_the_other() {
    let before = of(vec![allow("10.80.2.1/32", &[]), allow("10.80.2.2/32", &[])]);
    let after = of(vec![allow("10.80.2.2/32", &[]), allow("10.80.2.3/32", &[])]);
    let (delete, add) = difference(&before, &after);
    assert_eq!((delete.len(), add.len()), (1, 1));
    assert_eq!(difference(&after, &after), (vec![], vec![]));
}

/// A packet to the instance, or one from it to what is called its source here.
#[derive(Clone, Copy, Debug)]
struct Packet {
    source: Ipv4Addr,
    protocol: Option<Protocol>,
    port: u16,
}

fn is_allowed(allowed: &[Allow], packet: Packet) -> bool {
    let fits = |range: &PortRange| {
        Some(range.protocol) == packet.protocol && (range.first..=range.last).contains(&packet.port)
    };
    allowed.iter().any(|allow| {
        allow.source.contains(&packet.source)
            && (allow.ports.is_empty() || allow.ports.iter().any(fits))
    })
}

/// As the set's rule looks it up.
fn is_found(elements: &[Element], set: Set, packet: Packet) -> bool {
    let masked = |length| Ipv4Net::new(packet.source, length).unwrap().network();
    let number = packet.protocol.map_or(1, |protocol| match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    });
    let element = match set {
        Set::Isolated | Set::Confined => return false,
        Set::Sources(length) | Set::Destinations(length) => {
            Element::new(set, INSTANCE, masked(length), 0, 0)
        }
        Set::Ports(length, bits) | Set::DestinationPorts(length, bits) => {
            let port = packet.port & u16::MAX.checked_shl(bits.into()).unwrap_or(0);
            Element::new(set, INSTANCE, masked(length), number, port)
        }
    };
    elements.contains(&element)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

/// Ports at the edges of blocks.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![0..40_u16, 240..275_u16, 4090..4110_u16, 65500..=65535_u16]
}

fn allows() -> impl Strategy<Value = Vec<Allow>> {
    let range = (protocol(), port(), port()).prop_map(|(protocol, first, last)| PortRange {
        protocol,
        first,
        last,
    });
    let allow = (0..16_u8, 26..=32_u8, prop::collection::vec(range, 0..4)).prop_map(
        |(low, length, ports)| Allow {
            source: Ipv4Net::new(Ipv4Addr::new(192, 0, 2, low), length).unwrap(),
            ports,
        },
    );
    prop::collection::vec(allow, 0..6)
}

fn packet() -> impl Strategy<Value = Packet> {
    (0..16_u8, prop::option::of(protocol()), port()).prop_map(|(low, protocol, port)| Packet {
        source: Ipv4Addr::new(192, 0, 2, low),
        protocol,
        port,
    })
}

proptest! {
    #[test]
    fn the_sets_say_what_the_policy_says(allowed in allows(), packet in packet()) {
        for direction in [Direction::In, Direction::Out] {
            let elements = towards(direction, allowed.clone());
            let passes = sets(&elements).into_iter().any(|set| is_found(&elements, set, packet));
            prop_assert_eq!(passes, is_allowed(&allowed, packet));
        }
    }
}

/// The elements of IPv6 are those of IPv4, and each of them only once.
#[test]
fn a_twin_holds_who_is_allowed_and_nobody_else() {
    let range: dwell_core::net::Ipv6Range = "fd00:5::/64".parse().unwrap();
    let family = Family::of(range);
    let instance = Ipv4Addr::new(10, 80, 1, 5);
    let allowed = vec![
        allow("0.0.0.0/0", &[(Protocol::Tcp, 80, 80)]),
        allow("10.80.2.0/24", &[]),
        allow("10.80.2.9/32", &[(Protocol::Udp, 0, 65535)]),
    ];
    let policies = [Direction::In, Direction::Out].map(|direction| Policy {
        address: instance,
        direction,
        allowed: allowed.clone(),
    });
    let elements = elements(&policies);
    let mut keys: Vec<_> =
        elements.iter().map(|element| (element.set, element.key(family))).collect();
    for (element, (set, key)) in elements.iter().zip(&keys) {
        assert_eq!(Element::of_key(*set, family, key), Some(*element));
        let other = Family::of("fd00:6::/64".parse().unwrap());
        assert_eq!(Element::of_key(*set, other, key), None);
        assert_eq!(key[..16], range.address(instance).octets());
        match set {
            Set::Isolated | Set::Confined => assert_eq!(key.len(), 16),
            Set::Sources(0)
            | Set::Ports(0, _)
            | Set::Destinations(0)
            | Set::DestinationPorts(0, _) => {
                assert_eq!(key[16..32], [0; 16], "anybody");
            }
            _ => assert_eq!(key[16..28], range.address(instance).octets()[..12]),
        }
    }
    let count = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), count);
}
