//! Going back because an annotation asks for it.

use super::*;

impl Model {
    pub(super) fn ask_to_go_back(&mut self, revision: i64) {
        let annotations = self.deployment.annotations_mut();
        annotations.insert(model::ROLLBACK_TO.into(), revision.to_string());
    }

    fn image(&self) -> &str {
        let template = self.deployment.spec.template.spec.as_ref().unwrap();
        template.containers[0].image.as_deref().unwrap()
    }

    /// A Deployment that had these images, one after the other, each for a reason of its name.
    fn with_history(images: &[&str]) -> Self {
        let mut model = Self::rolling(2, json!(1), json!(0));
        for image in images {
            model.deployment.annotations_mut().insert("reason".into(), (*image).to_owned());
            model.set_image(image);
            model.settle();
        }
        model
    }

    fn goes_back(&mut self, revision: i64) -> &str {
        self.ask_to_go_back(revision);
        self.settle();
        assert!(!self.deployment.annotations().contains_key(model::ROLLBACK_TO));
        self.told.last().unwrap()
    }
}

#[test]
fn a_revision_is_brought_back_with_its_annotations() {
    let mut model = Model::with_history(&["v1", "v2", "v3"]);
    assert_eq!(model.goes_back(1), "Rolled back deployment \"web\" to revision 1");
    assert_eq!((model.image(), model.deployment.annotations()["reason"].as_str()), ("v1", "v1"));
    assert_eq!((model.sizes(), model.revisions()), (vec![2, 0, 0], vec![4, 2, 3]));
    let labels = &model.deployment.spec.template.metadata.as_ref().unwrap().labels;
    assert!(!labels.as_ref().unwrap().contains_key(model::POD_TEMPLATE_HASH));
    let first = &model.sets[0].object.annotations();
    assert_eq!(first["reason"], "v1");
    assert!(!first.contains_key(model::ROLLBACK_TO), "{first:?}");
}

#[test]
fn revision_zero_is_the_one_before_the_newest() {
    let mut model = Model::with_history(&["v1", "v2", "v3"]);
    assert_eq!(model.goes_back(0), "Rolled back deployment \"web\" to revision 2");
    assert_eq!(model.image(), "v2");
    assert_eq!(model.goes_back(0), "Rolled back deployment \"web\" to revision 3");
    assert_eq!(model.image(), "v3");
}

#[test]
fn a_request_that_cannot_be_met_is_dropped() {
    let mut model = Model::with_history(&["v1"]);
    assert_eq!(model.goes_back(0), "Unable to find last revision.");
    assert_eq!(model.goes_back(7), "Unable to find the revision to rollback to.");
    let unchanged =
        "The rollback revision contains the same template as current deployment \"web\"";
    assert_eq!(model.goes_back(1), unchanged);
    assert_eq!(model.image(), "v1");

    model.deployment.annotations_mut().insert(model::ROLLBACK_TO.into(), "last".into());
    model.settle();
    assert_eq!(model.told.len(), 3, "what is no number asks nothing");
}

#[test]
fn a_paused_deployment_goes_back_when_it_is_resumed() {
    let mut model = Model::with_history(&["v1", "v2"]);
    model.change(|deployment| {
        deployment.spec.paused = Some(true);
        deployment.spec.revision_history_limit = Some(0);
    });
    model.ask_to_go_back(1);
    model.settle();
    assert_eq!((model.image(), model.revisions()), ("v2", vec![1, 2]), "history is kept");
    model.change(|deployment| {
        deployment.spec.paused = Some(false);
        deployment.spec.revision_history_limit = Some(5);
    });
    model.settle();
    assert_eq!((model.image(), model.revisions()), ("v1", vec![3, 2]));
}
