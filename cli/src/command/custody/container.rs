//! A container that dwell did not make: what adopting it does, in words.

use std::fmt::Write as _;

use dwell_proto::v1;

use super::super::Fleet;
use crate::failure::Failure;
use crate::manifest;
use crate::output::view::AdoptionView;
use crate::output::{Format, OutputArgs, print, size};
use crate::wait::{Goal, WaitArgs, wait};

/// What is asked for.
pub(super) struct Order {
    pub(super) node: String,
    pub(super) container: String,
    pub(super) workload: String,
    pub(super) is_plan: bool,
    pub(super) output: OutputArgs,
    pub(super) wait: WaitArgs,
}

pub(super) async fn adopt(mut fleet: Fleet, order: Order) -> Result<(), Failure> {
    let Order { node, container, workload, is_plan: dry_run, output, wait: waiting } = order;
    let request = v1::AdoptContainerRequest { node: node.clone(), container, workload, dry_run };
    let answer = fleet.client.adopt_container(request).await?.into_inner();
    let view = AdoptionView::new(node, answer)?;
    if dry_run {
        let yaml = manifest::export(&view.workload);
        let yaml =
            yaml.map_err(|error| Failure::Other(format!("cannot write it as a file: {error}")))?;
        output.print(&view, |view| plan(view, &yaml))?;
        let (container, node) = (&view.container, &view.node);
        return match view.obstacles.len() {
            0 => Ok(()),
            _ => Err(Failure::Refused(format!("{container} on {node} cannot be adopted as it is"))),
        };
    }
    output.print(&view, begun)?;
    let goal = Goal::Settled { instance: view.instance.clone() };
    wait(waiting, &fleet.client, &fleet.target, &[goal]).await?;
    if waiting.wait && output.output == Format::Table {
        let (container, node) = (&view.container, &view.node);
        print(&format!(
            "container {container} stays stopped; once you need it no more, run `docker rm {container}` on {node}\n"
        ))?;
    }
    Ok(())
}

fn begun(view: &AdoptionView) -> String {
    let AdoptionView { node, container, instance, .. } = view;
    let mut text =
        format!("{instance} is being put in the place of container {container} on {node}\n");
    if !view.image.is_empty() {
        text.push_str(&on_one_node(view));
    }
    text
}

fn on_one_node(view: &AdoptionView) -> String {
    let AdoptionView { node, image, .. } = view;
    format!(
        "its own files become the image {image}, which is on {node} alone; push it to a registry and declare that name, and the instance \
         can be made elsewhere\n"
    )
}

fn plan(view: &AdoptionView, yaml: &str) -> String {
    let AdoptionView { node, container, instance, .. } = view;
    let id = view.container_id.get(..12).unwrap_or(&view.container_id);
    let mut text = format!(
        "container {container} ({id}) on {node} would become instance {instance}\n\n{yaml}\n"
    );
    let mut list = |title: &str, all: &[String]| {
        if !all.is_empty() {
            // Writing to a text cannot fail.
            writeln!(text, "{title}:").ok();
            for one in all {
                writeln!(text, "  - {one}").ok();
            }
            text.push('\n');
        }
    };
    let mut kept: Vec<String> = Vec::new();
    if !view.image.is_empty() {
        let bytes = size(view.image_bytes);
        kept.push(format!("{bytes} of files of its own: {}", on_one_node(view).trim_end()));
    }
    for volume in &view.volumes {
        let bytes = volume.bytes.map_or_else(|| "unknown size".to_owned(), size);
        kept.push(format!(
            "volume {}: copied to {} of the instance ({bytes}); the old one stays as it is",
            volume.source, volume.name
        ));
    }
    list("kept", &kept);
    list("different afterwards", &view.changes);
    list("why it cannot be adopted", &view.obstacles);
    let copied = match view.bytes() {
        0 => "next to nothing is".to_owned(),
        bytes => format!("{} are", size(bytes)),
    };
    text.push_str(&format!(
        "It is down from its stop until the instance runs, as long as a restart takes, while {copied} copied. If the instance does not \
         hold, {container} is started again as it was, and what the instance has written meanwhile is not in it.\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> v1::AdoptContainerResponse {
        let mut template =
            dwell_core::workload::Template::of_image("localhost/dwell-adopted/shop:0123456789ab");
        template.environment.insert("KEY".to_owned(), "value".to_owned());
        let spec = v1::WorkloadSpec {
            name: "shop".to_owned(),
            replicas: 1,
            template: Some((&template).into()),
            ..Default::default()
        };
        v1::AdoptContainerResponse {
            container: Some(v1::Foreign {
                container_id: "0123456789abcdef".to_owned(),
                name: "shop".to_owned(),
                template: Some((&template).into()),
                own_bytes: Some(4096),
                volumes: vec![v1::ForeignVolume {
                    name: "data".to_owned(),
                    source: "shop_data".to_owned(),
                    bytes: Some(3 << 30),
                }],
                changes: vec!["published port 8080 -> 80/tcp is not published any more".to_owned()],
                ..Default::default()
            }),
            workload: Some(spec),
            image: "localhost/dwell-adopted/shop:0123456789ab".to_owned(),
            revision: 7,
        }
    }

    #[test]
    fn a_plan_says_everything() {
        let view = AdoptionView::new("h1".to_owned(), answer()).unwrap();
        let text = plan(&view, &manifest::export(&view.workload).unwrap());
        for words in [
            "container shop (0123456789ab) on h1 would become instance shop-0",
            "image: localhost/dwell-adopted/shop:0123456789ab",
            "KEY: value",
            "4.0 KiB of files of its own",
            "which is on h1 alone",
            "volume shop_data: copied to data of the instance (3.0 GiB); the old one stays as it is",
            "  - published port 8080",
            "while 3.0 GiB are copied",
            "started again as it was",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("cannot be adopted"), "{text}");
        let mut forbidden = answer();
        forbidden.container.as_mut().unwrap().obstacles = vec!["it is privileged".to_owned()];
        let view = AdoptionView::new("h1".to_owned(), forbidden).unwrap();
        assert!(plan(&view, "").contains("why it cannot be adopted:\n  - it is privileged"));
    }

    #[test]
    fn an_answer_of_another_version_is_told() {
        let answer = v1::AdoptContainerResponse::default();
        assert!(AdoptionView::new("h1".to_owned(), answer).is_err());
    }
}
