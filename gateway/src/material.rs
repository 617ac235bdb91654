//! Reads what a configuration refers to outside itself: authorities and client certificates for upstream
//! TLS, and the addresses behind names.
//!
//! Listener certificates are the door's.

use tidegate_model::check::Places;
use tidegate_model::desired::Desired;
use tidegate_model::diagnostic::Diagnostic;

use std::sync::Arc;

use crate::carry::UpstreamTlsReady;
use crate::compile::Material;

/// Reads the files that upstream TLS needs.
///
/// # Errors
///
/// A diagnostic for each service whose files can't be used.
pub fn read(desired: &Desired, places: &Places) -> Result<Material, Vec<Diagnostic>> {
    let mut material = Material::default();
    let mut problems = Vec::new();
    for service in &desired.services {
        let ready = service.tls.as_ref().and_then(|tls| match UpstreamTlsReady::load(tls) {
            Ok(ready) => Some(Arc::new(ready)),
            Err(error) => {
                let key = match &tls.client {
                    Some(client) if client.cert == error.file => "client.cert",
                    Some(client) if client.key == error.file => "client.key",
                    _ => "ca",
                };
                problems.push(
                    Diagnostic::error(
                        "unusable-file",
                        format!("service \"{}\" can't use {}", service.name, error.file.display()),
                    )
                    .maybe_at(places.of(&format!("services.{}.tls.{key}", service.name)), error.what)
                    .help("check the path, its permissions, and that it is PEM"),
                );
                None
            }
        });
        material.upstream_tls.push(ready);
    }
    if problems.is_empty() { Ok(material) } else { Err(problems) }
}
