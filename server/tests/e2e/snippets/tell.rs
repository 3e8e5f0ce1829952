use tell::{Tell, TellConfig, TellError, props};

/// `endpoint` is `127.0.0.1:50000`; what cannot be sent is kept in `buffer` and sent by a later flush.
pub fn send(endpoint: &str, key: &str, buffer: &std::path::Path) -> Result<(), TellError> {
    let config = TellConfig::builder(key).endpoint(endpoint).service("shop").buffer_path(buffer).build()?;
    let tell = Tell::new(config)?;
    tell.track("user_1", "Page Viewed", props! { "url" => "/home" });
    tell.identify("user_1", props! { "name" => "Jane" });
    tell.revenue("user_1", 9.99, "USD", "ord_1", props! { "sku" => "s" });
    tell.log_error("request failed", Some("http"), props! { "status" => 500 });
    tell.counter("requests", 1.0, &[("route", "/home")]);
    tell.close_blocking()
}
