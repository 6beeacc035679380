"""Google's fault bodies, in the form of its documentation or, where that shows none, of the public report named; an
ellipsis marks what was cut.
"""

# https://developers.google.com/workspace/gmail/api/guides/handle-errors
USER_RATE_LIMIT = {
    "error": {
        "errors": [
            {"domain": "usageLimits", "reason": "userRateLimitExceeded", "message": "User Rate Limit Exceeded"},
        ],
        "code": 403,
        "message": "User Rate Limit Exceeded",
    }
}
# https://developers.google.com/workspace/gmail/api/guides/handle-errors
RATE_LIMIT = {
    "error": {
        "errors": [{"domain": "usageLimits", "message": "Rate Limit Exceeded", "reason": "rateLimitExceeded"}],
        "code": 403,
        "message": "Rate Limit Exceeded",
    }
}
# https://developers.google.com/workspace/gmail/api/guides/handle-errors
TOO_MANY = {
    "error": {
        "code": 429,
        "message": "Too many concurrent requests for user",
        "errors": [
            {"message": "Too many concurrent requests for user", "domain": "global", "reason": "rateLimitExceeded"}
        ],
        "status": "RESOURCE_EXHAUSTED",
    }
}
# A time in the message: https://github.com/googleapis/google-api-ruby-client/issues/20544
TOO_MANY_UNTIL = {
    "error": {
        "code": 429,
        "message": "User-rate limit exceeded.  Retry after 2026-01-02T00:00:30.500Z",
        "errors": [{"message": "User-rate limit exceeded. …", "domain": "usageLimits", "reason": "rateLimitExceeded"}],
        "status": "RESOURCE_EXHAUSTED",
    }
}
# https://developers.google.com/workspace/gmail/api/guides/handle-errors
INVALID_CREDENTIALS = {
    "error": {
        "errors": [
            {
                "domain": "global",
                "reason": "authError",
                "message": "Invalid Credentials",
                "locationType": "header",
                "location": "Authorization",
            }
        ],
        "code": 401,
        "message": "Invalid Credentials",
    }
}
# https://github.com/googleworkspace/cli/issues/282, details after https://cloud.google.com/apis/design/errors
NO_SCOPE = {
    "error": {
        "code": 403,
        "message": "Request had insufficient authentication scopes.",
        "errors": [{"message": "Insufficient Permission", "domain": "global", "reason": "insufficientPermissions"}],
        "status": "PERMISSION_DENIED",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
                "domain": "googleapis.com",
                "metadata": {"service": "gmail.googleapis.com", "method": "…"},
            }
        ],
    }
}
# https://github.com/DSchau/gatsby-mail/issues/35, details after https://cloud.google.com/apis/design/errors
API_DISABLED = {
    "error": {
        "code": 403,
        "message": "Gmail API has not been used in project 123 before or it is disabled. …",
        "errors": [
            {"message": "Gmail API has not been used …", "domain": "usageLimits", "reason": "accessNotConfigured"}
        ],
        "status": "PERMISSION_DENIED",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "SERVICE_DISABLED",
                "domain": "googleapis.com",
                "metadata": {"service": "gmail.googleapis.com", "consumer": "projects/123"},
            }
        ],
    }
}
# https://developers.google.com/workspace/gmail/api/guides/handle-errors with Gmail's
# reason for an account without a mailbox.
NO_MAILBOX = {
    "error": {
        "code": 400,
        "message": "Mail service not enabled",
        "errors": [{"message": "Mail service not enabled", "domain": "global", "reason": "failedPrecondition"}],
        "status": "FAILED_PRECONDITION",
    }
}
# https://developers.google.com/workspace/gmail/api/guides/handle-errors
BACKEND = {
    "error": {
        "errors": [{"domain": "global", "reason": "backendError", "message": "Backend Error"}],
        "code": 500,
        "message": "Backend Error",
    }
}
# A status alone, and the cause in the header WWW-Authenticate: https://github.com/kwent/react-google-contacts/issues/6
NO_SCOPE_BY_HEADER = {
    "error": {
        "code": 403,
        "message": "Request had insufficient authentication scopes.",
        "status": "PERMISSION_DENIED",
    }
}
# https://developers.google.com/identity/protocols/oauth2/web-server#exchange-errors
INVALID_GRANT = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
INVALID_CLIENT = {"error": "invalid_client", "error_description": "The OAuth client was not found."}
UNAUTHORIZED_CLIENT = {"error": "unauthorized_client", "error_description": "Unauthorized"}
REDIRECT_MISMATCH = {"error": "redirect_uri_mismatch", "error_description": "Bad Request"}
# https://developers.google.com/identity/protocols/oauth2/web-server#exchange-authorization-code
TOKENS = {
    "access_token": "1/fFAGRNJru1FTz70BzhT3Zg",
    "expires_in": 3920,
    "token_type": "Bearer",
    "scope": "openid https://www.googleapis.com/auth/userinfo.email https://www.googleapis.com/auth/userinfo.profile",
    "refresh_token": "1//xEoDL4iW3cxlI7yDbSRFYNG01kVKM2C-259HOF2aQbI",
}
# https://developers.google.com/identity/openid-connect/openid-connect#an-id-tokens-payload
USERINFO = {
    "sub": "10769150350006150715113082367",
    "name": "Jane Doe",
    "given_name": "Jane",
    "family_name": "Doe",
    "picture": "https://lh4.googleusercontent.com/photo.jpg",
    "email": "jsmith@example.com",
    "email_verified": True,
    "locale": "en",
}
