//! Faults that only librdkafka itself can make.

use rdkafka::bindings::rd_kafka_test_fatal_error;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::RDKafkaRespErr;

/// Makes a client fail for good, as librdkafka does where an idempotent producer has lost its place in a log: every later use
/// is refused.
#[allow(unsafe_code, reason = "librdkafka offers its test of fatal errors to C alone")]
pub fn fail_for_good<C: ClientContext>(client: &Client<C>) {
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    // SAFETY: the client is alive as long as it is borrowed, and the reason is a C string without end of life.
    unsafe {
        rd_kafka_test_fatal_error(client.native_ptr(), error, c"made by a test".as_ptr());
    }
}
