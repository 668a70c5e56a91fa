//! What the configuration says of the overlay.

use std::net::Ipv4Addr;

use serde::Deserialize;

use dwell_network::Overlay;

/// How instances of nodes are reached that share no segment with this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverlayMode {
    /// By VXLAN.
    Auto,
    /// Not at all.
    Never,
    /// By VXLAN, as are those of all other nodes.
    Always,
}

/// What the operator has chosen about the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayChoice {
    /// Who is reached through it.
    pub mode: OverlayMode,
    /// The UDP port at which all nodes receive.
    pub port: u16,
}

impl OverlayChoice {
    /// The overlay of a node that the others know by this address; `None` if there is to be none.
    #[must_use]
    pub fn of(self, local: Ipv4Addr) -> Option<Overlay> {
        let overlay = |always| Overlay { local, port: self.port, always };
        match self.mode {
            OverlayMode::Never => None,
            OverlayMode::Auto => Some(overlay(false)),
            OverlayMode::Always => Some(overlay(true)),
        }
    }
}
