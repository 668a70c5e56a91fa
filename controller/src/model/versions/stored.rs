//! How what versions say is stored: once, with the version.

/// A form with its template, in one piece.
pub(super) mod whole {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::super::Form;

    pub(in super::super) fn serialize<S: Serializer>(
        form: &Arc<Form>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        form.as_ref().serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Form>, D::Error> {
        Form::deserialize(deserializer).map(Arc::new)
    }
}

/// A form by its number: instances are stored so, and [`Model::restore`](crate::model::Model::restore) puts in what it says. Stores of an earlier
/// version have the template itself; such a form has the number 0.
pub(in super::super) mod by_number {
    use std::sync::Arc;

    use dwell_core::id::VersionNumber;
    use dwell_core::workload::Template;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::super::Form;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Number(VersionNumber),
        Template(Box<Template>),
    }

    impl Stored {
        fn into_form(self) -> Arc<Form> {
            Arc::new(match self {
                Self::Number(number) => Form { number, template: Template::of_image("") },
                Self::Template(template) => Form { number: VersionNumber(0), template: *template },
            })
        }
    }

    pub(in super::super::super) fn serialize<S: Serializer>(
        form: &Arc<Form>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        form.number.serialize(serializer)
    }

    pub(in super::super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Form>, D::Error> {
        Stored::deserialize(deserializer).map(Stored::into_form)
    }

    pub(in super::super::super) mod optional {
        use super::{Arc, Deserialize, Deserializer, Form, Serialize, Serializer, Stored};

        pub(in super::super::super::super) fn serialize<S: Serializer>(
            form: &Option<Arc<Form>>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            form.as_ref().map(|form| form.number).serialize(serializer)
        }

        pub(in super::super::super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Arc<Form>>, D::Error> {
            Ok(Option::<Stored>::deserialize(deserializer)?.map(Stored::into_form))
        }
    }
}
