//! What must hold of what the agent leaves for this program, for any bytes.

use std::path::Path;

use super::files;

/// The file of an instance, and that with whom the cluster trusts.
pub(crate) fn agents_files(bytes: &[u8]) {
    let path = Path::new("web-0.json");
    if let Ok(served) = serde_json::from_slice(bytes) {
        let name = files::sandbox_of(path.as_os_str()).map(|sandbox| sandbox.instance);
        drop(name.map(|name| files::served(path, &name, served)));
    }
    if let Ok(trust) = serde_json::from_slice(bytes) {
        drop(files::trust(path, trust));
    }
}
