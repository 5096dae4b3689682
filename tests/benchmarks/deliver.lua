-- Has wrk post one delivery over and over, and say in JSON how many were answered.
-- wrk -s deliver.lua URL -- BODY USER_AGENT CONTENT_TYPE

function init(arguments)
  wrk.method = "POST"
  wrk.body = arguments[1]
  wrk.headers["User-Agent"] = arguments[2]
  wrk.headers["Content-Type"] = arguments[3]
  wrk.headers["Accept-Encoding"] = "gzip"
end

function done(summary)
  local errors = summary.errors
  io.write(string.format(
    '{"answered": %d, "microseconds": %d, "not_2xx": %d, "closed": %d, "lost": %d}\n',
    summary.requests, summary.duration, errors.status, errors.read, errors.connect + errors.write + errors.timeout
  ))
end
