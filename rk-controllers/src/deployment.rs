//! Deployments.
mod model;
mod plan;
mod revisions;
mod rolling;
mod scaling;
mod status;
mod template_hash;

#[cfg(test)]
mod tests;
