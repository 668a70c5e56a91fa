//! Compiles the protobuf files with protox, so that no `protoc` is needed on the machine, and writes down how large what
//! they describe is in memory.

use std::fmt::Write as _;

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

/// What few of many have: it takes room only where it is.
const BOXED: [&str; 3] = [
    "dwell.v1.InstanceStatus.hook_failed",
    "dwell.v1.InstanceStatus.image_ahead",
    "dwell.v1.InstanceStatus.task",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["dwell/v1/types.proto", "dwell/v1/fleet.proto", "dwell/v1/session.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("dwell.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    let pool = DescriptorPool::from_file_descriptor_set(descriptors.clone())?;
    std::fs::write(out.join("shapes.rs"), shapes(&pool)?)?;
    // These have secrets in them; what they show instead is in src/convert/registry.rs.
    let secret = [".dwell.v1.RegistryLogin", ".dwell.v1.SetRegistryLoginRequest"];
    let mut prost = tonic_prost_build::Config::new();
    prost.enable_type_names();
    for field in BOXED {
        prost.boxed(format!(".{field}"));
    }
    tonic_prost_build::configure()
        .bytes(".")
        .skip_debug(secret)
        .codec_path("crate::codec::BoundedCodec")
        .compile_fds_with_config(descriptors, prost)?;
    Ok(())
}

/// All messages as `Shape`s of src/bounds.rs.
fn shapes(pool: &DescriptorPool) -> Result<String, Box<dyn std::error::Error>> {
    let messages: Vec<_> = pool.all_messages().collect();
    let requests: Vec<_> = pool
        .services()
        .flat_map(|service| service.methods().map(|method| method.input()).collect::<Vec<_>>())
        .collect();
    let mut text = String::from("&[\n");
    for message in &messages {
        let (name, is_request) = (message.full_name(), requests.contains(message));
        writeln!(text, "Shape {{ name: {name:?}, is_request: {is_request}, fields: &[")?;
        for field in message.fields() {
            let (number, name) = (field.number(), field.name());
            let each = each_bytes(&field);
            let content = match field.kind() {
                Kind::Message(of) => {
                    let index = messages.iter().position(|one| *one == of);
                    format!(
                        "Content::Message({})",
                        index.ok_or("a field has a message of no file")?
                    )
                }
                Kind::String | Kind::Bytes => "Content::Bytes".to_owned(),
                _ => "Content::Number".to_owned(),
            };
            let many = field.is_list() || field.is_map();
            writeln!(
                text,
                "Field {{ number: {number}, name: {name:?}, each_bytes: {each}, is_many: {many}, content: {content} }},"
            )?;
        }
        writeln!(text, "] }},")?;
    }
    text.push(']');
    Ok(text)
}

/// What one value of a field takes, in bytes and at most, without what it points to.
fn each_bytes(field: &FieldDescriptor) -> usize {
    match field.kind() {
        Kind::Message(message) => struct_bytes(&message),
        Kind::String => 24,
        Kind::Bytes => 32,
        _ => 8,
    }
}

/// What a message takes, in bytes and at most, without what it points to. No message contains itself.
fn struct_bytes(message: &MessageDescriptor) -> usize {
    let of_field = |field: &FieldDescriptor| match () {
        () if field.is_map() => 48,
        () if field.is_list() => 24,
        () if BOXED.contains(&field.full_name()) => 8,
        // Whether it is there.
        () if field.supports_presence() => each_bytes(field) + 8,
        () => each_bytes(field),
    };
    let is_alone =
        |field: &FieldDescriptor| field.containing_oneof().is_none_or(|oneof| oneof.is_synthetic());
    let alone: usize = message.fields().filter(is_alone).map(|field| of_field(&field)).sum();
    let oneofs = message.oneofs().filter(|oneof| !oneof.is_synthetic());
    let largest =
        oneofs.map(|oneof| oneof.fields().map(|field| of_field(&field)).max().unwrap_or(0));
    alone + largest.sum::<usize>()
}
