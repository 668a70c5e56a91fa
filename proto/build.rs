//! Compiles the protobuf files with protox, so that no `protoc` is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["dwell/v1/types.proto", "dwell/v1/fleet.proto", "dwell/v1/session.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("dwell.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // These have secrets in them; what they show instead is in src/convert/registry.rs.
    let secret = [".dwell.v1.RegistryLogin", ".dwell.v1.SetRegistryLoginRequest"];
    tonic_prost_build::configure().bytes(".").skip_debug(secret).compile_fds(descriptors)?;
    Ok(())
}
