//! Certificates by server name, swapped without a pause.
