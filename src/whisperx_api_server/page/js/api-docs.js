/** `/docs`: Swagger UI, whose files the server has. */

const { document: address } = document.getElementById("swagger-ui").dataset;
SwaggerUIBundle({
  url: address,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
