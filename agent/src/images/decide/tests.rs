use dwell_core::clock::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::config::Percent;
use crate::images::uses::{Role, Use};

const HOUR: u64 = 3_600_000;

fn id(n: u8) -> ImageDigest {
    ImageDigest::new([n; 32])
}

fn image(n: u8, names: &[&str]) -> Image {
    Image {
        id: id(n),
        names: names.iter().map(|&name| name.to_owned()).collect(),
        size: Bytes::mebi(u64::from(n)),
        created_at: Timestamp(0),
        containers: 0,
    }
}

fn fetched(names: &[&str], hours: u64) -> Fetched {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    Fetched { names, via: Via::Pull, unused: Millis(hours * HOUR) }
}

fn needs(image: u8) -> Uses {
    let mut uses = Uses::default();
    uses.add(id(image), Use { instance: "web-0".parse().unwrap(), role: Role::FallBack });
    uses
}

static NOTHING_STUCK: BTreeSet<ImageDigest> = BTreeSet::new();

fn seen<'a>(images: &'a [Image], own: &'a Own, uses: &'a Uses) -> Seen<'a> {
    Seen { images, own, uses, stuck: &NOTHING_STUCK }
}

fn policy() -> config::Images {
    config::Images::default()
}

const FULL: Option<Disk> = Some(Disk { used: 90, size: 100 });

#[test]
fn what_nothing_has_needed_for_long_goes_and_what_is_younger_stays() {
    let images = [image(1, &["a:1"]), image(2, &["b:1"]), image(3, &["hand:1"])];
    let own: Own = [(id(1), fetched(&["a:1"], 73)), (id(2), fetched(&["b:1"], 71))].into();
    let uses = Uses::default();
    let removal = next(seen(&images, &own, &uses), &policy(), None).unwrap();
    assert_eq!(
        (removal.image, &removal.names[..], removal.whole),
        (id(1), &["a:1".to_owned()][..], true)
    );
    assert_eq!(removal.why.to_string(), "nothing has needed it for 73h");
    assert_eq!(next(seen(&images[1..], &own, &uses), &policy(), None), None);
    let forever = config::Images { keep: Keep::Forever, ..policy() };
    assert_eq!(next(seen(&images, &own, &uses), &forever, None), None);
}

#[test]
fn a_full_disk_takes_what_was_unneeded_longest_and_what_was_pushed_last() {
    let images = [image(1, &["a:1"]), image(2, &["b:1"]), image(3, &["c:1"]), image(4, &["d:1"])];
    let mut pushed = fetched(&["c:1"], 50);
    pushed.via = Via::Push;
    let fresh = Fetched { unused: Millis(1000), ..fetched(&["d:1"], 0) };
    let own: Own = [
        (id(1), fetched(&["a:1"], 1)),
        (id(2), fetched(&["b:1"], 2)),
        (id(3), pushed),
        (id(4), fresh),
    ]
    .into();
    let uses = Uses::default();
    let mut left = images.to_vec();
    let mut order = Vec::new();
    while let Some(removal) = next(seen(&left, &own, &uses), &policy(), FULL) {
        left.retain(|image| image.id != removal.image);
        order.push(removal.image);
        assert_eq!(removal.why, Why::Pressure(90));
    }
    assert_eq!(order, [id(2), id(1), id(3)], "what has just come stays");
    assert_eq!(next(seen(&images, &own, &uses), &policy(), None), None);
}

#[test]
fn names_that_somebody_else_gave_stay_and_the_image_with_them() {
    let digest = format!("a@{}", id(9));
    let shared = [image(1, &["a:1", &digest, "mine:1"])];
    let own: Own = [(id(1), fetched(&["docker.io/library/a:1"], 99))].into();
    let uses = Uses::default();
    let removal = next(seen(&shared, &own, &uses), &policy(), None).unwrap();
    assert_eq!((&removal.names[..], removal.whole), (&["a:1".to_owned()][..], false));
    // Once that is done, it is somebody else's.
    let rest = [image(1, &[&digest, "mine:1"])];
    assert_eq!(next(seen(&rest, &own, &uses), &policy(), None), None);
    let alone = [image(1, &["a:1", &digest])];
    let removal = next(seen(&alone, &own, &uses), &policy(), None).unwrap();
    assert_eq!((removal.names.len(), removal.whole), (2, true));
    // Its tag has moved on to another image.
    let nameless = [image(1, &[])];
    let removal = next(seen(&nameless, &own, &uses), &policy(), None).unwrap();
    assert_eq!((removal.names.len(), removal.whole), (0, true));
}

#[test]
fn who_asks_for_a_removal_says_whether_images_of_others_are_meant() {
    let mut used = image(3, &["c:1"]);
    used.containers = 1;
    let images = [image(1, &["a:1"]), image(2, &["hand:1"]), used, image(4, &["d:1"])];
    let own: Own = [(id(1), fetched(&["a:1"], 0)), (id(3), fetched(&["c:1"], 0))].into();
    let uses = needs(4);
    let of = |scope| -> Vec<ImageDigest> {
        let all = unneeded(seen(&images, &own, &uses), scope);
        all.into_iter().map(|removal| removal.image).collect()
    };
    assert_eq!((of(Scope::Own), of(Scope::All)), (vec![id(1)], vec![id(2), id(1)]));
}

#[test]
fn room_is_made_from_high_on_until_it_is_below_low() {
    let disk = |used| Disk { used, size: 100 };
    for (used, was, is) in [
        (84, false, false),
        (85, false, true),
        (84, true, true),
        (70, true, true),
        (69, true, false),
    ] {
        assert_eq!(is_pressed(disk(used), &policy(), was), is, "{used} {was}");
    }
    assert_eq!(Disk { used: 0, size: 0 }.percent(), 0);
    assert_eq!(Disk { used: u64::MAX, size: 1 }.percent(), 100);
}

/// Any node: images 0 to 7 with names of a few repositories, some fetched, needed, in containers.
fn node() -> impl Strategy<Value = (Vec<Image>, Own, BTreeSet<u8>)> {
    let name = (0..4_u8, 0..3_u8).prop_map(|(repository, tag)| format!("r{repository}:{tag}"));
    let names = proptest::collection::btree_set(name, 0..4);
    let one = (
        names.clone(),
        0..2_u32,
        proptest::option::of((names, any::<bool>(), 0..100_u64)),
        any::<bool>(),
    );
    proptest::collection::vec(one, 0..8).prop_map(|all| {
        let (mut images, mut own, mut needed) = (Vec::new(), Own::new(), BTreeSet::new());
        for (n, (names, containers, came, is_needed)) in (0..8_u8).zip(all) {
            images.push(Image { names, containers, ..image(n, &[]) });
            if let Some((names, pushed, hours)) = came {
                let via = if pushed { Via::Push } else { Via::Pull };
                own.insert(id(n), Fetched { names, via, unused: Millis(hours * HOUR) });
            }
            if is_needed {
                needed.insert(n);
            }
        }
        (images, own, needed)
    })
}

proptest! {
    /// Whatever a node has, and however full it is, nothing goes that is needed, in a container, not ours, or under a
    /// name that is not ours; and it comes to an end.
    #[test]
    fn nothing_is_taken_that_is_needed_or_of_others(
        (images, own, needed) in node(), used in 0..=100_u64, low in 1..50_u8, keep in 0..100_u64,
    ) {
        let mut uses = Uses::default();
        for n in &needed {
            uses.add(id(*n), Use { instance: "web-0".parse().unwrap(), role: Role::FallBack });
        }
        let keep = Keep::For(Duration::from_secs(keep * 3600));
        let policy = config::Images { keep, high: Percent(50), low: Percent(low) };
        let disk = Disk { used, size: 100 };
        let pressed = Some(disk).filter(|disk| is_pressed(*disk, &policy, false));
        let mut left = images.clone();
        let mut rounds = 0;
        while let Some(removal) = next(seen(&left, &own, &uses), &policy, pressed) {
            rounds += 1;
            prop_assert!(rounds <= 64, "it does not come to an end");
            let again = next(seen(&left, &own, &uses), &policy, pressed);
            prop_assert_eq!(Some(&removal), again.as_ref());
            let image = left.iter().find(|image| image.id == removal.image).unwrap().clone();
            prop_assert!(image.containers == 0 && !uses.is_needed(image.id));
            let fetched = &own[&image.id];
            for name in &removal.names {
                prop_assert!(fetched.names.iter().any(|came| came_with(name, came)), "{}", name);
            }
            prop_assert_eq!(removal.whole, image.names.len() == removal.names.len());
            match removal.why {
                Why::Age(age) => prop_assert!(matches!(policy.keep, Keep::For(keep) if age >= keep)),
                Why::Pressure(_) => prop_assert!(pressed.is_some() && fetched.unused.as_duration() >= FRESH),
                Why::Asked => prop_assert!(false, "nobody asked"),
            }
            if removal.whole {
                left.retain(|image| image.id != removal.image);
            } else {
                let image = left.iter_mut().find(|image| image.id == removal.image).unwrap();
                image.names.retain(|name| !removal.names.contains(name));
            }
        }
        for scope in [Scope::Own, Scope::All] {
            for removal in unneeded(seen(&images, &own, &uses), scope) {
                let image = images.iter().find(|image| image.id == removal.image).unwrap();
                prop_assert!(image.containers == 0 && !uses.is_needed(image.id));
                prop_assert!(scope == Scope::All || own.contains_key(&image.id));
            }
        }
    }
}
