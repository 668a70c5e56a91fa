//! Why something is where and what it is. The model knows.

use dwell_proto::v1;
use tonic::Status;

use super::{Api, request, view};
use crate::model::{Fact, Model, Refusal};
use crate::status::into_status;

impl Api {
    pub(super) async fn explanation(
        &self,
        request: v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, Status> {
        let name = request.name.clone();
        let (found, revision) = self.read(move |model: &Model| model.explain(&name)).await?;
        let Some(found) = found else {
            // Of a name that could be an instance's, that is what was meant.
            let instance = request::name(&request.name).map(Refusal::NoInstance);
            let refusal = match instance {
                Ok(refusal) => refusal,
                Err(_) => Refusal::NoWorkload(request::name(&request.name)?),
            };
            return Err(into_status(refusal));
        };
        Ok(v1::ExplainResponse {
            subject: found.subject.to_string(),
            facts: found.facts.into_iter().map(in_wire).collect(),
            history: found.history.iter().map(|event| view::event(event)).collect(),
            revision: revision.0,
        })
    }
}

fn in_wire(fact: Fact) -> v1::Fact {
    v1::Fact {
        about: fact.about.to_owned(),
        text: fact.text,
        since_ms: fact.since.map(|since| since.0),
        by: fact.by,
    }
}
