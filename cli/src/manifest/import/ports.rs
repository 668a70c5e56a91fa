//! Ports that were published on a host: an instance has its own at its own address.

use super::Import;
use crate::manifest::tree::Item;

impl Import<'_> {
    pub(super) fn ports(&mut self, service: &mut Item) {
        let Some((key, ports)) = service.remove("ports") else { return };
        if ports.items().is_empty() {
            return;
        }
        let mut are_local = false;
        for item in ports.items() {
            let Some(port) = inside(item) else {
                // The reader says what is wrong with it.
                service.insert(key, ports);
                return;
            };
            are_local |= item.scalar().is_some_and(|text| text.starts_with("127."));
            if !published(service).contains(&port) {
                service.push_text("expose", &port);
            }
        }
        let who = match are_local {
            true => {
                "; 127.0.0.1 was for the host alone: say who may reach it with \"network.allow_from\""
            }
            false => "",
        };
        let message = format!(
            "\"ports\" are \"expose\": every instance has an address of its own and is reached there, at the ports inside, and not at \
             those of a host{who}"
        );
        self.note(&key.origin, message);
    }
}

/// The ports that a service says it has.
pub(super) fn published(service: &Item) -> Vec<String> {
    let expose = service.get("expose").map(Item::items).unwrap_or_default();
    expose.iter().filter_map(|item| item.scalar().map(str::to_owned)).collect()
}

/// The port inside: `80`, `53/udp` or `8000-8010`.
pub(super) fn inside(item: &Item) -> Option<String> {
    if let Some(target) = item.get("target") {
        let protocol = item.get("protocol").and_then(Item::scalar).filter(|it| *it != "tcp");
        let suffix = protocol.map(|protocol| format!("/{protocol}")).unwrap_or_default();
        return Some(format!("{}{suffix}", target.scalar()?));
    }
    let text = item.scalar()?;
    // Not at a ':' within ${NAME:-DEFAULT}.
    let mut depth = 0_usize;
    let last = text.char_indices().filter(|(_, letter)| {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        *letter == ':' && depth == 0
    });
    let port = last.last().map_or(text, |(at, _)| &text[at + 1..]);
    let port = port.strip_suffix("/tcp").unwrap_or(port);
    (!port.is_empty()).then(|| port.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_inside_is_the_last() {
        for (text, port) in [
            ("80", "80"),
            ("8080:80", "80"),
            ("127.0.0.1:8080:80/tcp", "80"),
            ("53:53/udp", "53/udp"),
            ("3000-3005:3000-3005", "3000-3005"),
            ("${PORT:-8080}:80", "80"),
            ("80:${PORT:-8080}", "${PORT:-8080}"),
            ("[::1]:80:8080", "8080"),
        ] {
            assert_eq!(inside(&Item::text(text)).as_deref(), Some(port), "{text}");
        }
    }
}
