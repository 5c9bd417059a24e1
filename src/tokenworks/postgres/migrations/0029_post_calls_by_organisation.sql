-- Calls are listed along calls_by_span.
DROP INDEX gateway.calls_by_organisation;
