//! Files in the shapes that projects have, and what becomes of each: it stands in its first line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::manifest::{Beside, Surroundings, Variables, import, read};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compose");

fn files() -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(DIRECTORY).unwrap().map(|entry| entry.unwrap().path());
    let yaml = entries.filter(|path| path.extension().is_some_and(|kind| kind == "yaml"));
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    yaml.map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect()
}

/// What becomes of a file, in the words of its first line, and what was said of it.
fn fate(name: &str, text: &str, surroundings: &Surroundings<'_>) -> (&'static str, String) {
    if read(name, text.as_bytes(), surroundings).is_ok() {
        return ("as it is", String::new());
    }
    let imported = match import(name, text.as_bytes(), surroundings) {
        Ok(imported) => imported,
        Err(error) => return ("refused", error.to_string()),
    };
    let mut variables = surroundings.variables.clone();
    for name in crate::manifest::variables::unset_names(&imported.text, surroundings.variables) {
        variables.insert(name.to_owned(), "set".to_owned());
    }
    let surroundings = Surroundings { variables: &variables, ..*surroundings };
    match read(name, imported.text.as_bytes(), &surroundings) {
        Ok(_) => ("after import", imported.notes.join("\n")),
        Err(error) => panic!("what was written is refused: {error}\n{}", imported.text),
    }
}

#[test]
fn files_in_the_shapes_that_projects_have() {
    let variables = Variables::new();
    let beside = Beside(PathBuf::from(DIRECTORY));
    let profiles = ["web".to_owned()];
    let surroundings = Surroundings { variables: &variables, files: &beside, profiles: &profiles };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut others = Vec::new();
    for (name, text) in files() {
        let says = text.lines().next().unwrap().strip_prefix("# dwell: ").unwrap();
        let (verdict, words) = says.split_once(": ").unwrap_or((says, ""));
        let (is, said) = fate(&name, &text, &surroundings);
        if is != verdict || !said.contains(words) {
            others.push(format!("{name} is to be {verdict}: {words}, and is {is}: {said}"));
        }
        *counts.entry(is).or_default() += 1;
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
    println!("{counts:?}");
    let applied = counts["as it is"] + counts["after import"];
    assert!(applied >= 30 && applied + counts["refused"] == 40, "{counts:?}");
}

/// What is written, and each change explained.
#[test]
fn what_an_import_says() {
    let variables = Variables::new();
    let beside = Beside(PathBuf::from(DIRECTORY));
    let surroundings = Surroundings { files: &beside, ..Surroundings::of(&variables) };
    for name in ["gitea", "keycloak", "swarm", "plausible", "matomo"] {
        let file = format!("{name}.yaml");
        let text = std::fs::read_to_string(Path::new(DIRECTORY).join(&file)).unwrap();
        let imported = import(&file, text.as_bytes(), &surroundings).unwrap();
        insta::assert_snapshot!(name, format!("{}\n{}", imported.notes.join("\n"), imported.text));
    }
}

/// All that is wrong is said at once.
#[test]
fn what_has_no_form_here_is_said_at_once() {
    let variables = Variables::new();
    let surroundings = Surroundings::of(&variables);
    let text = "services:\n  a:\n    image: a\n    ports: ['80:80']\n    privileged: true\n    networks: [x]\n  b:\n    build: .\n    gpus: all\n    volumes: [~/x:/x]\n";
    let refused = import("f.yaml", text.as_bytes(), &surroundings).unwrap_err().to_string();
    for says in [
        "f.yaml:5:5: \"privileged\" is not supported",
        "f.yaml:8:5: \"build\" is not supported",
        "f.yaml:9:5: \"gpus\" is not supported",
        "f.yaml:10:15: \"~/x\" is relative",
    ] {
        assert!(refused.contains(says), "{says}\n{refused}");
    }
    assert!(!refused.contains("ports") && !refused.contains("networks"), "{refused}");
}
