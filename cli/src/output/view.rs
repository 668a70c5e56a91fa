//! What programs see with `-o json` and `-o yaml`: field names that do not change when the wire does.
//!
//! Times are milliseconds since the Unix epoch, `null` where nobody knows. Amounts are in the unit that
//! their field's name ends in.

mod adoption;
mod audit;
mod authority;
mod context;
mod diagnosis;
mod explain;
mod image;
mod key;
mod node;
mod registry;
mod status;
mod volume;
mod workload;

pub(crate) use adoption::AdoptionView;
pub(crate) use audit::{AuditView, RemedyView};
pub(crate) use authority::AuthorityView;
pub(crate) use context::ContextsView;
pub(crate) use diagnosis::{DiagnosisView, DoctorView, FindingView, RouteChecksView, Severity};
pub(crate) use explain::ExplainView;
#[cfg(test)]
pub(crate) use explain::FactView;
pub(crate) use image::{
    ImageUseView, ImageView, ImagesView, ProblemView, PullsView, PushedView, PushesView,
    RemovalsView, Said,
};
pub(crate) use key::KeySetsView;
pub(crate) use node::{NodeView, NodesView, RoutesView, TokenView};
pub(crate) use registry::RegistriesView;
pub(crate) use status::{CountsView, FleetFindingView, Gravity, StatusView};
pub(crate) use volume::VolumesView;
pub(crate) use workload::{
    EventView, EventsView, HistoryView, InspectView, InstancePlanView, InstanceView, PlanView,
    PlansView, PsView, WorkloadView,
};
