use std::fs;

use dwell_core::registry::RegistryLogins;
use dwell_core::session::NodeNetwork;

use super::*;

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

/// A node that was told these logins.
fn told(logins: &[(&str, &str, &str)]) -> Registries {
    let mut assignment =
        Assignment::empty(NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap()));
    let login = |&(registry, username, password): &(&str, &str, &str)| {
        (host(registry), RegistryLogin::new(username.to_owned(), password.to_owned()).unwrap())
    };
    assignment.registries = logins.iter().map(login).collect::<RegistryLogins>();
    let held = watch::Sender::new(Some(Arc::new(assignment)));
    Registries { own: BTreeMap::new(), assignment: Some(held.subscribe()) }
}

async fn of(registries: &Registries, image: &str) -> Result<Credentials, CredentialsError> {
    registries.of(image, &RegistryLogins::new(), &PathLooks::default()).await
}

fn sent(credentials: Credentials) -> (String, String, String) {
    let docker = credentials.into_docker().unwrap();
    (docker.username.unwrap(), docker.password.unwrap(), docker.serveraddress.unwrap())
}

#[tokio::test]
async fn the_login_is_that_of_the_references_registry() {
    let registries = told(&[
        ("index.docker.io", "hub", "a"),
        ("ghcr.io", "gh", "b"),
        ("reg.lan:5000", "ci", "c"),
    ]);
    for (image, username, password, address) in [
        ("debian", "hub", "a", DOCKER_HUB_KEY),
        ("docker.io/team/app:1", "hub", "a", DOCKER_HUB_KEY),
        ("ghcr.io/team/app@sha256:00", "gh", "b", "ghcr.io"),
        ("reg.lan:5000/app", "ci", "c", "reg.lan:5000"),
    ] {
        let credentials = of(&registries, image).await.unwrap();
        let told = (username.to_owned(), password.to_owned(), address.to_owned());
        assert_eq!(sent(credentials), told, "{image}");
    }
    for image in ["reg.lan/app", "quay.io/a"] {
        let none = of(&registries, image).await.unwrap();
        assert!(none.shown().ends_with(" without credentials"), "{}", none.shown());
        assert!(none.next_step().contains("dwell registry login"), "{}", none.next_step());
        assert_eq!(none.into_docker(), None);
    }
    assert_eq!(of(&Registries::default(), "debian").await.unwrap().into_docker(), None);
}

#[tokio::test]
async fn a_nodes_own_login_wins_and_is_read_anew_for_each_pull() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, "one\n").unwrap();
    let mut registries = told(&[("ghcr.io", "cluster", "x")]);
    let own = OwnLogin::Password { username: "node".to_owned(), file: file.clone() };
    registries.own.insert(host("ghcr.io"), own);
    for password in ["one", "two"] {
        fs::write(&file, format!("{password}\n")).unwrap();
        let credentials = of(&registries, "ghcr.io/a").await.unwrap();
        assert_eq!(credentials.shown(), "from ghcr.io as \"node\"");
        assert!(credentials.next_step().contains("agent.yaml"), "{}", credentials.next_step());
        assert_eq!(sent(credentials).1, password);
    }
    fs::remove_file(&file).unwrap();
    let refused = of(&registries, "ghcr.io/a").await.unwrap_err().to_string();
    assert!(refused.contains("/password, which agent.yaml names"), "{refused}");
    fs::write(&file, "\n").unwrap();
    let refused = of(&registries, "ghcr.io/a").await.unwrap_err().to_string();
    assert!(refused.contains("the password has to have 1 to"), "{refused}");
    fs::write(&file, "a".repeat(PASSWORD_MAX + 10)).unwrap();
    assert!(of(&registries, "ghcr.io/a").await.is_err(), "it is not cut");

    registries.own.insert(host("ghcr.io"), OwnLogin::IdentityToken { file: file.clone() });
    fs::write(&file, "token").unwrap();
    let credentials = of(&registries, "ghcr.io/a").await.unwrap();
    assert_eq!(credentials.shown(), "from ghcr.io with an identity token");
    assert_eq!(credentials.into_docker().unwrap().identitytoken.unwrap(), "token");
}

#[tokio::test]
async fn credentials_show_no_secret() {
    let credentials = of(&told(&[("ghcr.io", "ci", "hunter2")]), "ghcr.io/a").await.unwrap();
    assert_eq!(format!("{credentials:?}"), "from ghcr.io as \"ci\"");
}

#[tokio::test]
async fn a_login_that_comes_with_the_order_counts_more_than_what_the_node_was_told() {
    let registries = told(&[("ghcr.io", "old", "a")]);
    let login = RegistryLogin::new("new".to_owned(), "b".to_owned()).unwrap();
    let logins = RegistryLogins::from([(host("ghcr.io"), login)]);
    let found = registries.of("ghcr.io/a", &logins, &PathLooks::default()).await.unwrap();
    assert_eq!(sent(found).0, "new");
    assert_eq!(sent(of(&registries, "ghcr.io/a").await.unwrap()).0, "old");
}
