//! What a record says that is to be run: any bytes are a call that can be described, or none.

#![no_main]

use epilogue_guardian::{Call, ScopeRef};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(call) = Call::from_bytes(bytes) {
        let _ = (call.describe(), call.timeout());
        let again = call.to_bytes().expect("what was read can be written");
        assert_eq!(Call::from_bytes(&again).expect("and read again"), call);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(scope) = ScopeRef::parse(text)
    {
        assert_eq!(ScopeRef::parse(&scope.to_string()), Some(scope));
    }
});
